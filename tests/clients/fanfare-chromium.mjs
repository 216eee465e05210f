// fanfare.js and the browser's own EventSource in pages of a real Chromium, which come from another origin.

import assert from 'node:assert/strict';
import { pageServer, visitors } from './browser.mjs';
import { TRANSPORTS, brisk, direct, hearsAll, publishNumbers, token } from './fanfare.mjs';
import { api, fresh, key, port, test, until } from './lib.mjs';
import { nginx } from './nginx.mjs';
import { proxy } from './proxy.mjs';

const visit = await visitors();
const url = await pageServer();

/** Opens a feed in a page, with the module as the server gives it; what it says gathers in `window.heard`. */
function open(page, address, options) {
  return page.evaluate(async ([module, address, key, options]) => {
    const { Fanfare } = await import(module);
    window.heard = { message: [], subscribed: [], gap: [], error: [], state: [], transport: [] };
    window.feed = new Fanfare(address, key, options);
    for (const [event, list] of Object.entries(window.heard)) {
      window.feed.on(event, (detail) => list.push(detail));
    }
    await new Promise((resolve) => window.feed.on('subscribed', resolve));
  }, [`${direct}/fanfare.js`, address, key, { ...brisk, ...options }]);
}

const heard = (page, event) => page.evaluate((event) => window.heard[event], event);
const numbers = (page) => () => page.evaluate(() => window.heard.message.map(({ data }) => Number(data)));
const transport = (page) => page.evaluate(() => window.feed.transport);

test('each transport is blocked in turn in mid-session, and the page hears everything in order', async () => {
  const [channel, between, page] = [fresh('room'), await proxy(port), await visit(url)];
  await open(page, between.url, { channels: [channel] });
  const published = publishNumbers(channel);
  for (const name of TRANSPORTS) {
    await until(async () => (await transport(page)) === name, name);
    const before = (await numbers(page)()).length;
    await until(async () => (await numbers(page)()).length > before, `a message over ${name}`);
    await page.waitForTimeout(1_000 * brisk.stable);
    if (name !== 'poll') {
      between.block(name);
    }
  }
  await hearsAll(numbers(page), await published.stop());
  assert.deepEqual([await heard(page, 'gap'), await heard(page, 'error')], [[], []]);
});

for (const name of TRANSPORTS) {
  test(`${name}: with a token, and dropped again and again`, async () => {
    const [channel, between, page] = [fresh('private-room'), await proxy(port), await visit(url)];
    await open(page, between.url, { channels: [channel], transports: [name], token: token({ channels: [channel] }) });
    const published = publishNumbers(channel);
    for (const ms of [400, 1_500, 800]) {
      await new Promise((resolve) => setTimeout(resolve, ms));
      between.drop();
    }
    await hearsAll(numbers(page), await published.stop());
    assert.deepEqual([await heard(page, 'gap'), await heard(page, 'error')], [[], []]);
  });
}

test('two tabs hear the same, and the second begins with what worked in the first', async () => {
  const [channel, between, first] = [fresh('room'), await proxy(port), await visit(url)];
  between.block('ws');
  await open(first, between.url, { channels: [channel], retryBlocked: 60 });
  between.asked.length = 0;
  const second = await first.context().newPage();
  await second.goto(url);
  await open(second, between.url, { channels: [channel] });
  assert.equal(between.asked[0], 'sse');

  const published = publishNumbers(channel);
  await until(() => published.sent > 20, 'numbers');
  const count = await published.stop();
  await hearsAll(numbers(first), count);
  await hearsAll(numbers(second), count);
});

test('a machine that goes offline pauses, and goes on at once when it is back', async () => {
  const [channel, page] = [fresh('room'), await visit(url)];
  await open(page, direct, { channels: [channel] });
  await api.trigger(channel, 'message', 0);
  await page.context().setOffline(true);
  await until(async () => (await page.evaluate(() => window.feed.state)) === 'paused', 'a pause');
  await api.trigger(channel, 'message', 1);
  await page.context().setOffline(false);
  await hearsAll(numbers(page), 2);
});

test("a browser's own EventSource, behind an nginx that buffers", async () => {
  const [channel, page, between] = [fresh('room'), await visit(url), await nginx(direct)];
  await page.evaluate((address) => {
    window.heard = { message: [], opened: 0 };
    window.source = new EventSource(address);
    window.source.onopen = () => (window.heard.opened += 1);
    window.source.onmessage = ({ data, lastEventId }) => window.heard.message.push({ data, lastEventId });
  }, `${between.url}/sub/${key}/${channel}`);
  const hears = (count) => hearsAll(numbers(page), count);
  await until(async () => (await page.evaluate(() => window.heard.opened)) === 1, 'the source to open');
  for (const number of [0, 1, 2]) {
    // Each before the next is published: nothing waits in a buffer for more.
    await api.trigger(channel, 'message', number);
    await hears(number + 1);
  }
  await between.stop();
  for (const number of [3, 4]) {
    await api.trigger(channel, 'message', number);
  }
  await between.start();
  await hears(5);
  await api.trigger(channel, 'message', 5);
  await hears(6);
  assert.ok((await heard(page, 'message')).every(({ lastEventId }) => lastEventId.length > 0));
  await page.evaluate(() => window.source.close());
});

test('fanfare.js streams through an nginx that buffers', async () => {
  const [between, page] = [await nginx(direct), await visit(url)];
  for (const name of ['sse', 'stream', 'longpoll']) {
    const channel = fresh('room');
    await open(page, between.url, { channels: [channel], transports: [name] });
    for (const number of [0, 1, 2]) {
      await api.trigger(channel, 'message', number);
      await hearsAll(numbers(page), number + 1);
    }
    await page.evaluate(() => window.feed.close());
  }
});
