// A visitor of the server's own demo page.

import { visitors } from './browser.mjs';
import { host, port } from './lib.mjs';

const visit = await visitors();
const url = `http://${host}:${port}/`;

/** A visitor of the thread, with all that the page asked of any host and all that it complained about. */
export async function visitor() {
  const [asked, complaints] = [[], []];
  const page = await visit('about:blank');
  page.on('request', (request) => asked.push(request.url()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  await page.goto(url);
  const self = {
    page,
    asked,
    complaints,
    count: async () => Number(await page.textContent('#count')),
    comments: () => page.locator('#messages .text').allTextContents(),
    comment: (text) => page.locator('#messages .comment', { hasText: text }),
    async choose(transport) {
      await page.check(`#transports [value=${transport}]`, { force: true });
      await self.uses(transport);
    },
    uses: (transport) => page.waitForSelector(`#transports .using [value=${transport}]`, { state: 'attached' }),
    async says(text) {
      await page.fill('#text', text);
      await page.press('#text', 'Enter');
    },
    hears: (text) => self.comment(text).waitFor(),
  };
  await page.waitForFunction(() => Number(document.querySelector('#count').textContent) >= 1);
  return self;
}
