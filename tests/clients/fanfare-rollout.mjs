// fanfare.js while the server's rollout changes: who is out, who is dark, and the switch; in Node and in pages of Chromium.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { Fanfare } from '../../clients/js/fanfare.js';
import { pageServer, visitors } from './browser.mjs';
import { TRANSPORTS, brisk, direct } from './fanfare.mjs';
import { api, fresh, key, port, test as plainTest, until } from './lib.mjs';
import { proxy } from './proxy.mjs';

const { FANFARE_CONFIG_FILE, FANFARE_PID } = process.env;
const config = readFileSync(FANFARE_CONFIG_FILE, 'utf8');

/** Has the server go by this rollout, in which clients ask every second. */
async function rollout(lines, ask = 'user=nobody') {
  writeFileSync(FANFARE_CONFIG_FILE, `${config}\n[apps.rollout]\nseed = "${fresh('seed')}"\ncheck_again_s = 1\n${lines}\n`);
  process.kill(Number(FANFARE_PID), 'SIGHUP');
  const wanted = /percent = (\S+)/.exec(lines)?.[1] ?? 100;
  const reason = lines.includes('kill') ? 'kill' : 'percent';
  await until(async () => {
    const told = await (await fetch(`${direct}/rollout/${key}?${ask}`)).json();
    return told.percent === Number(wanted) && told.reason === reason && told.dark === lines.includes('dark');
  }, `the rollout ${lines}`);
}

let feeds = [];

function test(name, body) {
  plainTest(name, () => body().finally(() => {
    feeds.forEach((feed) => feed.close());
    feeds = [];
  }));
}

/** A feed that asks, and all that it says by event. */
function open(url, options, appKey = key) {
  const feed = new Fanfare(url, appKey, { ...brisk, rollout: { user: 'ann' }, ...options });
  feeds.push(feed);
  const heard = {};
  for (const event of ['message', 'subscribed', 'gap', 'error', 'state', 'dark']) {
    heard[event] = [];
    feed.on(event, (detail) => heard[event].push(detail));
  }
  return { feed, heard, data: () => heard.message.map(({ data }) => data) };
}

const is = (feed, state) => until(() => feed.state === state, `the state ${state}`);

test('who is out does not connect, and does once it is in', async () => {
  const [channel, between] = [fresh('room'), await proxy(port)];
  await rollout('percent = 0');
  const { feed, heard, data } = open(between.url, { channels: [channel] });
  await is(feed, 'off');
  assert.deepEqual(heard.state, [{ state: 'connecting', reason: undefined }, { state: 'off', reason: 'percent' }]);
  assert.deepEqual([between.asked, feed.transport, feed.dark], [[], undefined, undefined]);

  // Asking again is no change of state.
  await rollout('percent = 0\nallow = ["user:bob"]');
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  assert.equal(heard.state.length, 2);

  await rollout('percent = 0\nallow = ["user:ann"]');
  await is(feed, 'connected');
  await api.trigger(channel, 'message', 'hello');
  await until(() => data().includes('hello'), 'a message');
});

test('who does not ask connects anyway', async () => {
  await rollout('percent = 0');
  const { feed } = open(direct, { channels: [fresh('room')], rollout: false });
  await is(feed, 'connected');
});

for (const transport of TRANSPORTS) {
  test(`${transport}: the switch ends it, and when it is back it has missed nothing`, async () => {
    const channel = fresh('room');
    await rollout('');
    const { feed, heard, data } = open(direct, { channels: [channel], transports: [transport] });
    await is(feed, 'connected');
    await api.trigger(channel, 'message', 'before');
    await until(() => data().length === 1, 'a message');
    await rollout('kill = true');
    await is(feed, 'off');
    assert.equal(heard.state.at(-1).reason, 'kill');
    await api.trigger(channel, 'message', 'meanwhile');
    await rollout('');
    await is(feed, 'connected');
    await until(() => data().length === 2, 'what was missed');
    assert.deepEqual([data(), heard.gap, heard.error], [['before', 'meanwhile'], [], []]);
  });

  test(`${transport}: in the dark it counts, and shows what comes when it is no longer dark`, async () => {
    const channel = fresh('room');
    await rollout('dark = true');
    const { feed, heard, data } = open(direct, { channels: [channel], transports: [transport] });
    await is(feed, 'connected');
    await api.trigger(channel, 'message', 'unseen');
    await until(() => feed.dark.message === 1, 'that it is counted');
    assert.deepEqual([heard.message, heard.subscribed, feed.dark.subscribed], [[], [], 1]);
    assert.deepEqual(heard.dark.map(({ event, detail }) => [event, detail.channel, detail.data]),
      [['subscribed', channel, undefined], ['message', channel, 'unseen']]);

    await rollout('');
    await until(() => heard.subscribed.length === 1, 'that it is told who is subscribed');
    assert.equal(feed.dark, undefined);
    await api.trigger(channel, 'message', 'seen');
    await until(() => data().length > 0, 'a message');
    assert.deepEqual([data(), heard.gap, heard.state.at(-1).state], [['seen'], [], 'connected']);
  });
}

test('what cannot be asked changes nothing, and is asked again', async () => {
  const channel = fresh('room');
  let [asked, broken] = [0, false];
  const fetchSome = (address, options) => {
    asked += address.includes('/rollout/');
    return broken ? Promise.reject(new Error('no way')) : fetch(address, options);
  };
  await rollout('');
  const { feed, heard } = open(direct, { channels: [channel], transports: ['ws'], fetch: fetchSome });
  await is(feed, 'connected');
  [asked, broken] = [0, true];
  await until(() => asked > 1, 'further questions');
  assert.equal(heard.state.at(-1).state, 'connected');
  broken = false;
  await rollout('kill = true');
  await is(feed, 'off');
});

test('who is out asks the application for no token', async () => {
  let [asked, tokens] = [0, 0];
  await rollout('percent = 0');
  const { feed } = open(direct, {
    channels: [fresh('room')],
    token: async () => `${tokens += 1}`,
    fetch: (address, options) => (asked += 1, fetch(address, options)),
  });
  await until(() => asked > 2, 'further questions');
  assert.deepEqual([feed.state, tokens], ['off', 0]);
});

test('a connection that takes over while it is asked does not end the asking', async () => {
  let [questions, streams] = [0, 0];
  const fetchSome = async (address, options) => {
    if (address.includes('/rollout/') && (questions += 1) === 2) {
      return new Promise((_, reject) => options.signal.addEventListener('abort', () => reject(new Error('aborted'))));
    }
    if (address.includes('/sub/') && (streams += 1) === 2) {
      await until(() => questions === 2, 'the question');
    }
    return fetch(address, options);
  };
  await rollout('');
  const { feed } = open(direct, { channels: [fresh('room')], transports: ['stream'], fetch: fetchSome });
  await is(feed, 'connected');
  feed.subscribe(fresh('room'));
  await until(() => streams === 2, 'the second connection');
  assert.equal(questions, 1);
  await until(() => questions > 3, 'further questions');
});

test('a visitor without a name is the same the next time', async () => {
  const memory = new Map();
  const storage = { getItem: (name) => memory.get(name) ?? null, setItem: (name, value) => memory.set(name, value) };
  const ids = [];
  const fetchNoting = (address, options) => {
    if (address.includes('/rollout/')) {
      ids.push(new URL(address).searchParams.toString());
    }
    return fetch(address, options);
  };
  await rollout('');
  for (const rolloutOption of [true, true, { user: undefined, site: 'blog' }]) {
    const { feed } = open(direct, { channels: [fresh('room')], storage, fetch: fetchNoting, rollout: rolloutOption });
    await is(feed, 'connected');
    feed.close();
  }
  assert.match(ids[0], /^id=\w{6,}$/);
  assert.equal(ids[1], ids[0]);
  assert.deepEqual(ids[2].split('&').sort(), [ids[0], 'site=blog']);
});

test('a feed without channels waits for one, whatever the rollout', async () => {
  await rollout('percent = 0');
  const { feed } = open(direct, { channels: ['room'] });
  await is(feed, 'off');
  feed.unsubscribe('room');
  await is(feed, 'idle');
  await rollout('');
  feed.subscribe(fresh('room'));
  await is(feed, 'connected');
});

test('an unknown app ends it', async () => {
  const { feed, heard } = open(direct, { channels: ['room'] }, 'unknown');
  await is(feed, 'closed');
  assert.equal(heard.error[0].status, 404);
});

test('a page of another origin is out, dark, in, and out again', async () => {
  const [channel, visit, url] = [fresh('room'), await visitors(), await pageServer()];
  const page = await visit(url);
  const state = () => page.evaluate(() => window.feed.state);
  const becomes = (wanted) => until(async () => (await state()) === wanted, `the state ${wanted}`);
  const openFeed = () => page.evaluate(([module, address, key, options]) => import(module).then(({ Fanfare }) => {
    window.heard = [];
    window.feed = new Fanfare(address, key, options);
    window.feed.on('message', ({ data }) => window.heard.push(data));
  }), [`${direct}/fanfare.js`, direct, key, { ...brisk, channels: [channel], rollout: true }]);

  await rollout('percent = 0');
  await openFeed();
  await becomes('off');
  await rollout('dark = true');
  await becomes('connected');
  await api.trigger(channel, 'message', 'unseen');
  await until(() => page.evaluate(() => window.feed.dark?.message === 1), 'that it is counted');
  await rollout('');
  await until(() => page.evaluate(() => !window.feed.dark), 'that it is no longer dark');
  await api.trigger(channel, 'message', 'seen');
  await until(() => page.evaluate(() => window.heard.length), 'a message');
  assert.deepEqual(await page.evaluate(() => window.heard), ['seen']);
  await rollout('kill = true');
  await becomes('off');

  const id = () => page.evaluate(() => window.localStorage.getItem('fanfare'));
  const before = await id();
  assert.ok(before);
  await page.reload();
  await openFeed();
  await becomes('off');
  assert.equal(await id(), before);
});
