// The server's own demo page, as two people would use it.

import assert from 'node:assert/strict';
import { visitors } from './browser.mjs';
import { host, port, test, until } from './lib.mjs';

const visit = await visitors();
const url = `http://${host}:${port}/`;

/** A visitor in the room, with all that the page asked of any host and all that it complained about. */
async function visitor() {
  const [asked, complaints] = [[], []];
  const page = await visit('about:blank');
  page.on('request', (request) => asked.push(request.url()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  await page.goto(url);
  await page.waitForFunction(() => Number(document.querySelector('#count').textContent.match(/\d+/)) >= 1);
  return { page, asked, complaints };
}

const count = async ({ page }) => Number((await page.textContent('#count')).match(/\d+/)?.[0]);

test('what one types, the other reads; and both see who is here', async () => {
  const ann = await visitor();
  const bob = await visitor();
  for (const someone of [ann, bob]) {
    await until(async () => (await count(someone)) === 2, 'two are counted');
    await until(async () => (await someone.page.locator('#members > *').count()) === 2, 'two are listed');
  }

  await ann.page.fill('#text', 'hello <b>there</b> ü');
  await ann.page.click('#send');
  for (const someone of [ann, bob]) {
    await someone.page.locator('#messages').getByText('hello <b>there</b> ü').waitFor();
  }
  await bob.page.fill('#text', 'and back');
  await bob.page.press('#text', 'Enter');
  await ann.page.locator('#messages').getByText('and back').waitFor();
  await ann.page.waitForFunction(() => /\d/.test(document.querySelector('#latency').textContent));
  await bob.page.waitForFunction(() => /\d/.test(document.querySelector('#latency').textContent));

  await bob.page.close();
  await until(async () => (await count(ann)) === 1, 'one is left');
  for (const { asked, complaints } of [ann, bob]) {
    assert.deepEqual(asked.filter((address) => new URL(address).host !== `${host}:${port}`), []);
    assert.deepEqual(complaints, []);
  }
});
