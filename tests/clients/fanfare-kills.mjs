// fanfare.js while its server is killed again and again, on every transport at once.
//
// Says `subscribed` when all feeds are. Then reads one line: the numbers of all jobs that were finished, as JSON, with their
// threads. Ends well when every feed has heard each of them once on the channel of its thread and once on that of its forum, and
// nothing else; and those of a thread in the order of their numbers.

import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';
import { Fanfare } from '../../clients/js/fanfare.js';
import { TRANSPORTS, brisk, direct } from './fanfare.mjs';
import { key, until } from './lib.mjs';

/** As many as are published while somebody is away, and more. */
const BACKTRACK = 3_000;
const RETURN_MS = 100_000;
/** For what comes twice to come. */
const SILENCE_MS = 2_000;

const { THREADS, FORUMS } = process.env;
const names = (kind, count) => Array.from({ length: Number(count) }, (_, n) => `${kind}.${n}`);
const channels = [...names('thread', THREADS), ...names('forum', FORUMS)];

const feeds = TRANSPORTS.map((transport) => {
  const feed = new Fanfare(direct, key, { ...brisk, channels, backtrack: BACKTRACK, transports: [transport] });
  const heard = { transport, feed, subscribed: new Set(), gaps: 0, on: new Map(channels.map((name) => [name, []])) };
  feed.on('message', ({ channel, data }) => heard.on.get(channel).push(JSON.parse(data)));
  feed.on('subscribed', ({ channel }) => heard.subscribed.add(channel));
  feed.on('gap', () => (heard.gaps += 1));
  feed.on('error', (error) => assert.fail(`${transport}: ${JSON.stringify(error)}`));
  return heard;
});

const total = ({ on }) => [...on.values()].reduce((sum, heard) => sum + heard.length, 0);

/** What a channel's messages should be, and are not. */
function judge(transport, channel, wanted, heard) {
  const numbers = heard.map(({ n }) => n);
  const once = new Set(numbers);
  const lost = wanted.filter((n) => !once.has(n));
  const twice = numbers.filter((n, at) => numbers.indexOf(n) !== at);
  assert.deepEqual({ transport, channel, lost, twice }, { transport, channel, lost: [], twice: [] });
  assert.equal(once.size, wanted.length, `${transport} ${channel}: messages of no job`);
  const last = new Map();
  for (const { n, thread } of heard) {
    assert.ok(!(last.get(thread) > n), `${transport} ${channel}: ${n} of thread ${thread} after ${last.get(thread)}`);
    last.set(thread, n);
  }
}

await until(() => feeds.every(({ subscribed }) => subscribed.size === channels.length), 'the subscriptions');
console.log('subscribed');

const { value } = await createInterface({ input: process.stdin })[Symbol.asyncIterator]().next();
const finished = JSON.parse(value);
const wanted = new Map(channels.map((name) => [name, []]));
for (const { n, thread, forum } of finished) {
  wanted.get(`thread.${thread}`).push(n);
  wanted.get(`forum.${forum}`).push(n);
}
const late = () => feeds.filter((heard) => total(heard) < 2 * finished.length);
await until(() => !late().length, 'every message', RETURN_MS).catch(() =>
  console.log(`waited in vain: ${late().map(({ transport, feed }) => `${transport}, ${feed.state}`)}`));
await new Promise((resolve) => setTimeout(resolve, SILENCE_MS));
for (const { transport, gaps, on } of feeds) {
  for (const [channel, heard] of on) {
    judge(transport, channel, wanted.get(channel), heard);
  }
  console.log(`${transport}: ${finished.length} jobs heard, each once on each channel; ${gaps} gaps told`);
}
process.exit(0);
