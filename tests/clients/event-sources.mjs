// The common readers of event streams for Node, behind a proxy that keeps dropping their connections: each comes back by
// itself, with `Last-Event-ID`, and has every message once and in order.

import assert from 'node:assert/strict';
import { fetchEventSource } from '@microsoft/fetch-event-source';
import { EventSource } from 'eventsource';
import { fresh, key, port, until } from './lib.mjs';
import { hearsAll, publishNumbers, token } from './fanfare.mjs';
import { proxy } from './proxy.mjs';
import { atEnd, test } from './runner.mjs';

const DROPS = 3;

// It was made for pages, and looks at these two.
globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };

const network = await proxy(port);

/** Publishes, drops the connection once and again, and judges what `heard` holds in the end. */
async function throughDrops(channel, heard) {
  const publishing = publishNumbers(channel);
  for (let drop = 1; drop <= DROPS; drop += 1) {
    const before = heard.length;
    await until(() => heard.length > before + 10, 'messages');
    network.drop();
  }
  const before = heard.length;
  await until(() => heard.length > before, 'messages after the last drop');
  const count = await publishing.stop();
  await hearsAll(() => heard, count);
  assert.equal(heard[0], 0, 'the first was published once it was subscribed');
}

/** Resolves with what the server says of its subscription. */
function subscribed(source) {
  return new Promise((resolve) => {
    source.addEventListener('fanfare:subscribed', ({ data }) => resolve(JSON.parse(data)), { once: true });
  });
}

function eventSource(channel, options) {
  const source = new EventSource(`${network.url}/sub/${key}/${channel}`, options);
  atEnd(() => source.close());
  return source;
}

test('eventsource', async () => {
  const channel = fresh('room');
  const source = eventSource(channel);
  const heard = [];
  source.onmessage = ({ data }) => heard.push(Number(data));
  assert.equal((await subscribed(source)).recovered, undefined);
  const again = subscribed(source);
  await throughDrops(channel, heard);
  assert.equal((await again).recovered, true);
});

test('eventsource, with a token in a header', async () => {
  const channel = fresh('private-room');
  const authorization = `Bearer ${token({ channels: [channel] })}`;
  const source = eventSource(channel, {
    fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, authorization } }),
  });
  const heard = [];
  source.onmessage = ({ data }) => heard.push(Number(data));
  await subscribed(source);
  await throughDrops(channel, heard);
});

test('eventsource is refused for good', async () => {
  const source = eventSource(fresh('private-room'));
  const code = await new Promise((resolve) => source.addEventListener('error', (error) => resolve(error.code)));
  assert.equal(code, 401);
  assert.equal(source.readyState, EventSource.CLOSED);
});

test('@microsoft/fetch-event-source', async () => {
  const channel = fresh('private-room');
  const stop = new AbortController();
  atEnd(() => stop.abort());
  const heard = [];
  const confirmations = [];
  const opened = [];
  fetchEventSource(`${network.url}/sub/${key}/${channel}`, {
    signal: stop.signal,
    headers: { authorization: `Bearer ${token({ channels: [channel] })}` },
    async onopen(response) {
      opened.push(response.headers.get('content-type'));
    },
    onmessage({ event, data }) {
      if (event === 'fanfare:subscribed') {
        confirmations.push(JSON.parse(data));
      } else {
        heard.push(Number(data));
      }
    },
  });
  await until(() => confirmations.length > 0, 'the subscription');
  await throughDrops(channel, heard);
  assert.deepEqual(confirmations.map(({ recovered }) => recovered), [undefined, true, true, true]);
  assert.match(opened[0], /^text\/event-stream/);
});
