// fanfare.js in Node: every transport alone, and what makes it change from one to another.

import assert from 'node:assert/strict';
import { Fanfare } from '../../clients/js/fanfare.js';
import { TRANSPORTS, brisk, direct, hearsAll, publishNumbers, token } from './fanfare.mjs';
import { api, fresh, key, port, test as plainTest, until } from './lib.mjs';
import { proxy } from './proxy.mjs';
import { PATIENCE_MS } from './runner.mjs';

/** How long a connection is left alone before it is dropped: too short to count as stable, and not. */
const LIVES_MS = [300, 1_900, 700, 2_600];

let feeds = [];

/** A test whose feeds are closed when it ends. */
function test(name, body) {
  plainTest(name, () => body().finally(() => {
    feeds.forEach((feed) => feed.close());
    feeds = [];
  }));
}

/** A feed, and all that it says, by event; `on` are the messages of a channel, `numbers` those that are numbers. */
function open(url, options, appKey = key) {
  const feed = new Fanfare(url, appKey, { ...brisk, ...options });
  feeds.push(feed);
  const heard = {};
  for (const event of ['message', 'subscribed', 'gap', 'error', 'transport', 'state', 'member_added', 'member_removed']) {
    heard[event] = [];
    feed.on(event, (detail) => heard[event].push(detail));
  }
  const on = (channel) => heard.message.filter((message) => message.channel === channel).map(({ data }) => data);
  return { feed, heard, on, numbers: (channel) => () => on(channel).map(Number) };
}

/** One whose channels are all subscribed. */
async function opened(url, options) {
  const made = open(url, options);
  await until(() => made.heard.subscribed.length >= options.channels.length, 'the subscriptions');
  return made;
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

for (const transport of TRANSPORTS) {
  const transports = [transport];

  test(`${transport}: a message has all that was published`, async () => {
    const channel = fresh('room');
    const { feed, heard } = await opened(direct, { channels: [channel], transports });
    assert.deepEqual(heard.transport, [{ transport }]);
    await api.trigger(channel, 'said', 'ü\r\n\u2028"\\ 🎺', { event_id: 'one' });
    await until(() => heard.message.length === 1, 'the message');
    const { time_ms: time, cursor, ...message } = heard.message[0];
    assert.deepEqual(message, { channel, event: 'said', data: 'ü\r\n\u2028"\\ 🎺', event_id: 'one' });
    assert.ok(Math.abs(Date.now() - time) < 60_000);
    assert.match(cursor, /^[A-Za-z0-9._-]{1,128}$/);
    assert.ok(feed.cursor);
  });

  test(`${transport}: dropped again and again, it hears everything once and in order`, async () => {
    const channel = fresh('room');
    const between = await proxy(port);
    const { heard, numbers } = await opened(between.url, { channels: [channel], transports });
    const published = publishNumbers(channel);
    for (const ms of LIVES_MS) {
      await sleep(ms);
      between.drop();
    }
    await hearsAll(numbers(channel), await published.stop());
    assert.equal(numbers(channel)()[0], 0);
    assert.deepEqual([heard.gap, heard.error], [[], []]);
  });

  test(`${transport}: channels come and go while it is connected`, async () => {
    const [first, second, third] = [fresh('room'), fresh('room'), fresh('room')];
    const { feed, heard, on, numbers } = await opened(direct, { channels: [first], transports });
    const published = publishNumbers(first);
    feed.subscribe(second, third);
    const isHeard = (name) => heard.subscribed.some(({ channel }) => channel === name);
    await until(() => isHeard(second) && isHeard(third), 'both');
    await api.trigger(second, 'message', 'hello');
    await until(() => on(second).length === 1, 'a message on the second channel');

    feed.unsubscribe(second);
    await api.trigger(second, 'message', 'nobody listens');
    await api.trigger(third, 'message', 'hello');
    await until(() => on(third).length === 1, 'a message on the third channel');
    await hearsAll(numbers(first), await published.stop());
    assert.deepEqual(on(second), ['hello']);
    assert.deepEqual(feed.channels, [first, third]);
    assert.deepEqual(heard.state.map(({ state }) => state), ['connecting', 'connected']);
  });

  test(`${transport}: a token is fetched again before it expires`, async () => {
    const channel = fresh('private-room');
    let fetched = 0;
    const fetchToken = async () => {
      fetched += 1;
      return token({ channels: [channel] }, 5);
    };
    const { heard, numbers } = await opened(direct, { channels: [channel], transports, token: fetchToken });
    const published = publishNumbers(channel, 50);
    await until(() => fetched === 2, 'the second token');
    await hearsAll(numbers(channel), await published.stop());
    assert.deepEqual([heard.gap, heard.error], [[], []]);
  });

  test(`${transport}: it begins with the latest, or where another feed ended`, async () => {
    const channel = fresh('room');
    for (const number of [0, 1, 2, 3]) {
      await api.trigger(channel, 'message', number);
    }
    const latest = await opened(direct, { channels: [channel], transports, backtrack: 2 });
    await until(() => latest.on(channel).length === 2, 'the latest two');
    assert.deepEqual(latest.on(channel), ['2', '3']);
    latest.feed.close();

    await api.trigger(channel, 'message', 4);
    const next = await opened(direct, { channels: [channel], transports, since: latest.feed.cursor });
    await until(() => next.on(channel).length === 1, 'what came since');
    assert.deepEqual(next.on(channel), ['4']);
    assert.equal(next.heard.subscribed[0].recovered, true);
  });

  test(`${transport}: a channel that is refused is left out`, async () => {
    const [mine, other] = [fresh('private-mine'), fresh('private-other')];
    const { feed, heard, on } = await opened(direct, { channels: [mine], transports, token: token({ channels: [mine] }) });
    feed.subscribe(other);
    await until(() => heard.error.length, 'a refusal');
    assert.deepEqual([heard.error[0].channel, heard.error[0].status], [other, 403]);
    await api.trigger(mine, 'message', 'still here');
    await until(() => on(mine).length === 1, 'a message on the other channel');
    assert.deepEqual(feed.channels, [mine]);
  });
}

test('a transport that is blocked gives way to the next', async () => {
  const channel = fresh('room');
  const between = await proxy(port);
  const { feed, heard, on, numbers } = await opened(between.url, { channels: [channel] });
  const published = publishNumbers(channel);
  for (const transport of TRANSPORTS) {
    await until(() => feed.transport === transport, transport);
    const before = on(channel).length;
    await until(() => on(channel).length > before, `a message over ${transport}`);
    await sleep(1_000 * brisk.stable);
    if (transport !== 'poll') {
      between.block(transport);
    }
  }
  await hearsAll(numbers(channel), await published.stop());
  assert.deepEqual([heard.gap, heard.error], [[], []]);
});

test('a better transport is taken up again without an interruption', async () => {
  const channel = fresh('room');
  const between = await proxy(port);
  between.block('ws', 'sse');
  const { feed, heard, numbers } = await opened(between.url, { channels: [channel] });
  const published = publishNumbers(channel);
  assert.equal(feed.transport, 'stream');
  heard.state.length = 0;
  between.blocked.clear();
  await until(() => feed.transport === 'ws', 'the best again', 2 * PATIENCE_MS);
  await hearsAll(numbers(channel), await published.stop());
  assert.deepEqual([heard.gap, heard.error, heard.state], [[], [], []]);
});

test('what worked is remembered, and tried first the next time', async () => {
  const between = await proxy(port);
  let kept = null;
  const options = {
    channels: [fresh('room')],
    storage: { getItem: () => kept, setItem: (_, value) => (kept = value) },
  };
  between.block('ws', 'sse');
  (await opened(between.url, options)).feed.close();
  between.asked.length = 0;
  (await opened(between.url, options)).feed.close();
  assert.deepEqual(between.asked, ['stream']);
});

for (const transport of ['ws', 'sse', 'stream', 'poll']) {
  test(`${transport}: silence is noticed`, async () => {
    const channel = fresh('room');
    const between = await proxy(port);
    const options = { channels: [channel], transports: [transport], heartbeat: 0.6, openTimeout: 1.5 };
    const { heard, on, numbers } = await opened(between.url, options);
    const published = publishNumbers(channel);
    await until(() => on(channel).length > 3, 'numbers');
    between.silent = true;
    await until(() => heard.state.some(({ reason }) => reason === 'silence'), 'that silence is noticed');
    between.silent = false;
    await hearsAll(numbers(channel), await published.stop());
  });
}

test('an event id is heard once, however often it is published', async () => {
  const channel = fresh('room');
  const { on } = await opened(direct, { channels: [channel] });
  for (const [number, event_id] of [['0', 'same'], ['0', 'same'], ['1', 'other']]) {
    await api.trigger(channel, 'message', number, { event_id });
  }
  await until(() => on(channel).includes('1'), 'the last');
  assert.deepEqual(on(channel), ['0', '1']);
});

test('an unknown app ends it', async () => {
  const { feed, heard } = open(direct, { channels: ['room'] }, 'unknown');
  await until(() => heard.error.length, 'an error');
  assert.deepEqual([heard.error[0].status, feed.state], [404, 'closed']);
});

test('a refused token is fetched again, once', async () => {
  const channel = fresh('private-room');
  const tokens = ['not.a.token', token({ channels: [channel] })];
  await opened(direct, { channels: [channel], token: async () => tokens.shift() });
  assert.deepEqual(tokens, []);

  let fetched = 0;
  const { feed, heard } = open(direct, {
    channels: [channel],
    token: async () => {
      fetched += 1;
      return 'not.a.token';
    },
  });
  await until(() => heard.error.length, 'an error');
  assert.deepEqual([fetched, heard.error[0].status, feed.state], [2, 401, 'closed']);
});

test('who is there is told, whatever they came over', async () => {
  const channel = fresh('presence-room');
  const options = (name, transport) =>
    ({ channels: [channel], transports: [transport], token: token({ channels: [channel], sub: name, info: { name } }) });
  const { heard } = await opened(direct, options('ann', 'sse'));
  assert.deepEqual(heard.subscribed[0].presence.ids, ['ann']);
  const tells = (event, id) => until(() => heard[event].some(({ data }) => data.user_id === id), `${event} ${id}`);
  for (const transport of TRANSPORTS) {
    const other = await opened(direct, options(transport, transport));
    await tells('member_added', transport);
    other.feed.close();
  }
  // Pollers count until ten seconds after their last answer.
  for (const transport of ['ws', 'sse', 'stream']) {
    await tells('member_removed', transport);
  }
});
