// fanfare.js across a restart of its server, on every transport at once.
//
// Says `subscribed` when all feeds are, and `numbered` when all have heard the first ten numbers. After a graceful restart
// (RESTART=graceful) nobody may notice more than a pause; after a crash each must tell a gap, and `gap` is said then. Ends
// well when all have heard the numbers up to 19 once and in order.

import assert from 'node:assert/strict';
import { Fanfare } from '../../clients/js/fanfare.js';
import { TRANSPORTS, brisk, direct, hearsAll } from './fanfare.mjs';
import { key, until } from './lib.mjs';

const graceful = process.env.RESTART === 'graceful';

/** A client that finds nobody a few times waits for a while. */
const RESTART_MS = 40_000;

const feeds = TRANSPORTS.map((transport) => {
  const feed = new Fanfare(direct, key, { ...brisk, channels: ['room'], transports: [transport] });
  const heard = { transport, numbers: [], subscribed: [], gaps: [] };
  feed.on('message', ({ data }) => heard.numbers.push(Number(data)));
  feed.on('subscribed', (detail) => heard.subscribed.push(detail));
  feed.on('gap', (detail) => heard.gaps.push(detail));
  feed.on('error', (error) => assert.fail(`${transport}: ${JSON.stringify(error)}`));
  return heard;
});

const all = (condition, what) =>
  until(() => feeds.every(condition), what, RESTART_MS).catch((error) => {
    console.error(feeds);
    throw error;
  });

await all(({ subscribed }) => subscribed.length === 1, 'the subscriptions');
console.log('subscribed');
await all(({ numbers }) => numbers.length === 10, 'ten numbers');
console.log('numbered');
if (!graceful) {
  await all(({ gaps }) => gaps.length === 1, 'the gaps');
  console.log('gap');
}
await all(({ numbers }) => numbers.at(-1) === 19, 'the last number');
for (const { transport, numbers, gaps } of feeds) {
  await hearsAll(() => numbers, 20);
  assert.deepEqual(gaps, graceful ? [] : [{ channel: 'room' }], transport);
}
process.exit(0);
