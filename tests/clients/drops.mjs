// fanfare.js behind a network that keeps failing: every so often all connections are cut, and for a while none gets through.
// Whatever is published meanwhile must reach every application, once and in order.
//
//   node --experimental-websocket drops.mjs [--transport sse] [--subscribers 500] [--seconds 120] [--every 10] [--for 2]
//                                           [--rate 5]
//
// Without a transport, all five are tried at the same time, each with a channel and a network of its own. Says what arrived,
// and ends well when all of it did. The server is told by the environment, as for the other drivers.

import { once } from 'node:events';
import net from 'node:net';
import { parseArgs } from 'node:util';
import { Fanfare } from '../../clients/js/fanfare.js';
import { api, host, key, port } from './lib.mjs';

const { values } = parseArgs({
  options: {
    transport: { type: 'string', multiple: true, default: ['ws', 'sse', 'stream', 'longpoll', 'poll'] },
    subscribers: { type: 'string', default: '500' },
    seconds: { type: 'string', default: '120' },
    every: { type: 'string', default: '10' },
    for: { type: 'string', default: '2' },
    rate: { type: 'string', default: '5' },
  },
});
const { transport: transports, ...numbers } = values;
const [subscribers, seconds, every, pause, rate] = ['subscribers', 'seconds', 'every', 'for', 'rate'].map((name) =>
  Number(numbers[name]),
);

/** How long the last of those who were cut off may take to come back and catch up. */
const CATCH_UP_MS = 60_000;

const complete = await Promise.all(transports.map(measure));
process.exit(complete.every(Boolean) ? 0 : 1);

async function measure(transport) {
  const channel = `drops-${transport}-${Date.now()}`;
  const network = await startNetwork();
  const applications = Array.from({ length: subscribers }, () => startApplication(transport, channel, network.url));
  await within(CATCH_UP_MS, () => applications.every(({ subscriptions }) => subscriptions > 0));

  const failures = failAgainAndAgain(network);
  const published = await publish(channel);
  const drops = await failures.stop();
  await within(CATCH_UP_MS, () => applications.every(({ seen }) => seen.size === published));
  applications.forEach(({ feed }) => feed.close());
  network.close();
  return report(transport, applications, published, drops);
}

/** What an application hears. */
function startApplication(transport, channel, url) {
  const feed = new Fanfare(url, key, { channels: [channel], transports: [transport], pollInterval: 1 });
  const seen = new Set();
  const application = { feed, seen, next: 0, duplicated: 0, reordered: 0, gaps: 0, subscriptions: 0, errors: 0 };
  feed.on('message', ({ data }) => {
    const number = Number(data);
    if (seen.has(number)) {
      application.duplicated += 1;
      return;
    }
    seen.add(number);
    application.reordered += number < application.next;
    application.next = Math.max(application.next, number + 1);
  });
  feed.on('subscribed', () => (application.subscriptions += 1));
  feed.on('gap', () => (application.gaps += 1));
  feed.on('error', () => (application.errors += 1));
  return application;
}

/** Publishes numbers for as long as is asked for; how many there were. */
async function publish(channel) {
  const begun = Date.now();
  let number = 0;
  while (Date.now() < begun + 1_000 * seconds) {
    await api.trigger(channel, 'message', String(number));
    number += 1;
    await sleep(begun + (1_000 * number) / rate - Date.now());
  }
  return number;
}

/** A way to the server that can be cut. */
async function startNetwork() {
  const sockets = new Set();
  let up = true;
  const proxy = net.createServer((near) => {
    if (!up) {
      near.on('error', () => {}).resetAndDestroy();
      return;
    }
    const far = net.connect(port, host);
    for (const [socket, other] of [[near, far], [far, near]]) {
      sockets.add(socket);
      // The other end learns of it by its own closing.
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  return {
    url: `http://127.0.0.1:${proxy.address().port}`,
    cut() {
      up = false;
      sockets.forEach((socket) => socket.resetAndDestroy());
    },
    mend: () => (up = true),
    close: () => proxy.close(),
  };
}

function failAgainAndAgain(network) {
  let stopped = false;
  let drops = 0;
  const done = (async () => {
    while (!stopped) {
      await sleep(1_000 * (every - pause));
      if (!stopped) {
        network.cut();
        drops += 1;
        await sleep(1_000 * pause);
        network.mend();
      }
    }
  })();
  return {
    async stop() {
      stopped = true;
      await done;
      return drops;
    },
  };
}

function report(transport, applications, published, drops) {
  const sum = (name) => applications.reduce((total, application) => total + application[name], 0);
  const [duplicated, reordered, gaps] = ['duplicated', 'reordered', 'gaps'].map(sum);
  const delivered = applications.reduce((total, { seen }) => total + seen.size, 0);
  const owed = subscribers * published;
  const percent = Math.floor((100_000 * delivered) / owed) / 1_000;
  console.log(
    `${transport}: ${subscribers} subscribers, ${published} messages, ${drops} drops, ${sum('subscriptions')} subscriptions: ` +
      `${delivered} of ${owed} delivered (${percent.toFixed(3)} %), ${duplicated} duplicated, ${reordered} reordered, ` +
      `${gaps} gaps, ${sum('errors')} errors`,
  );
  return drops > 0 && delivered === owed && duplicated + reordered + gaps === 0;
}

/** Waits until the condition holds, or until it is too late; the report will show which. */
async function within(ms, condition) {
  const deadline = Date.now() + ms;
  while (!condition() && Date.now() < deadline) {
    await sleep(50);
  }
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
}
