// What the drivers of fanfare.js share: publishing numbered messages, judging what was heard of them, tokens.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { api, host, key, port, secret, until } from './lib.mjs';

export const TRANSPORTS = ['ws', 'sse', 'stream', 'longpoll', 'poll'];

/** The server itself. */
export const direct = `http://${host}:${port}`;

/** Options for tests: what is patient by default is not. */
export const brisk = { pollInterval: 0.2, stable: 0.5, retryBlocked: 1 };

/** Publishes 0, 1, 2, … on a channel until stopped; `stop` resolves to how many there were. */
export function publishNumbers(channel, everyMs = 20) {
  let [sent, stopped] = [0, false];
  const publishing = (async () => {
    for (; !stopped; sent += 1) {
      await api.trigger(channel, 'message', sent);
      await new Promise((resolve) => setTimeout(resolve, everyMs));
    }
  })();
  return {
    get sent() {
      return sent;
    },
    async stop() {
      stopped = true;
      await publishing;
      return sent;
    },
  };
}

/** Waits until the last of `count` numbers was heard. All must have come once and in order, from whichever on. */
export async function hearsAll(heard, count) {
  await until(async () => (await heard()).at(-1) === count - 1, `number ${count - 1}`);
  const numbers = await heard();
  const at = numbers.findIndex((number, i) => i > 0 && number !== numbers[i - 1] + 1);
  assert.equal(at, -1, `after ${numbers.slice(Math.max(at - 3, 0), at)} came ${numbers.slice(at, at + 3)}`);
}

/** A token as `fanfare token` makes them. */
export function token(claims, lifeS = 3_600) {
  const now = Math.floor(Date.now() / 1_000);
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT', kid: key })}.${part({ iat: now, exp: now + lifeS, ...claims })}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}
