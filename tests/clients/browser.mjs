// Debian's Chromium, driven through playwright-core, and a page for it that no other host serves.

import { createServer } from 'node:http';
import { access, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';
import { PATIENCE_MS, atEnd } from './runner.mjs';

const ARGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
];

/** Starts a browser for the tests of this driver, and resolves to a function that opens a page of a new visitor. */
export async function visitors() {
  const browser = await chromium.launch({ executablePath: await executable(), headless: true, args: ARGS });
  atEnd(() => browser.close());
  return async (url) => {
    // The certificate of a test server is its own.
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    await page.goto(url);
    return page;
  };
}

async function executable() {
  const found = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
  for (const path of found) {
    if (await access(path).then(() => true, () => false)) {
      return path;
    }
  }
  throw new Error(`no browser in ${found.join(', ')}: run \`cargo xtask setup\``);
}

/** Serves `chromium.html` with pusher-js as it is published, and resolves to its address. */
export function pageServer() {
  const pusherJs = createRequire(import.meta.url).resolve('pusher-js/dist/web/pusher-with-encryption.min.js');
  const files = {
    '/': ['text/html', new URL('chromium.html', import.meta.url)],
    '/pusher.min.js': ['text/javascript', pusherJs],
  };
  const server = createServer(async ({ url }, response) => {
    const file = files[url];
    response.writeHead(file ? 200 : 404, { 'content-type': file?.[0] ?? 'text/plain' });
    response.end(file && (await readFile(file[1])));
  });
  atEnd(() => server.close());
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${server.address().port}/`));
  });
}
