// What the Node drivers share: the server they are pointed at, the two libraries set up for it, and waiting.
//
// Every wait ends: what does not come within PATIENCE_MS fails the test and says what was awaited.

import assert from 'node:assert/strict';
import PusherHttp from 'pusher';
import PusherJs from 'pusher-js';
import { PATIENCE_MS, test as runTest, within } from './runner.mjs';

const {
  FANFARE_HOST, FANFARE_PORT, FANFARE_PORTS, FANFARE_APP_ID, FANFARE_KEY, FANFARE_SECRET, FANFARE_TLS, FANFARE_TRANSPORT,
} = process.env;

export const host = FANFARE_HOST;
export const port = Number(FANFARE_PORT);
export const key = FANFARE_KEY;
export const secret = FANFARE_SECRET;
export const appId = FANFARE_APP_ID;

/** Whether the server speaks TLS. */
export const tls = FANFARE_TLS === '1';

/** The transport under test: `ws`, `xhr_streaming` or `xhr_polling`. */
export const transport = FANFARE_TRANSPORT ?? 'ws';

const SILENCE_MS = 250;

/** Any 32 bytes. */
const MASTER_KEY = Buffer.alloc(32, 'fanfare').toString('base64');

/** The server library. */
export const api = apiWith({});

export function apiWith(options) {
  return new PusherHttp({ appId, key, secret, host, port, useTLS: tls, encryptionMasterKeyBase64: MASTER_KEY, ...options });
}

/** A port where nobody listens, as behind a firewall that lets HTTP through and nothing else. */
const BLOCKED_PORT = 1;

/** The nodes that clients connect to, in turn. What is asked of the API is asked of the first. */
const ports = FANFARE_PORTS?.split(',').map(Number) ?? [port];

/** Where pusher-js finds the server. Only one transport, so that a failure is not hidden by another. */
export const address = {
  cluster: '',
  wsHost: host,
  wsPort: transport === 'ws' ? port : BLOCKED_PORT,
  wssPort: transport === 'ws' ? port : BLOCKED_PORT,
  httpHost: host,
  httpPort: port,
  httpsPort: port,
  forceTLS: tls,
  enabledTransports: [transport],
};

/** The ports of the next node in turn. */
function nextNode() {
  ports.push(ports.shift());
  const [node] = ports;
  return { httpPort: node, httpsPort: node, ...(transport === 'ws' && { wsPort: node, wssPort: node }) };
}

let clients = [];

/** A test whose clients are gone when it ends. */
export function test(name, body) {
  runTest(name, () => body().finally(() => {
    clients.forEach((client) => client.disconnect());
    clients = [];
  }));
}

/**
 * A pusher-js client. `member` is who it is on presence channels, `user` who it signs in as; the answers that an
 * application's auth endpoints would give come from the server library.
 */
export function client({ member, user, ...options } = {}) {
  const made = new PusherJs(key, {
    ...address,
    ...nextNode(),
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, callback) =>
        answer(callback, () => {
          const presence = channelName.startsWith('presence-') ? member : undefined;
          return api.authorizeChannel(socketId, channelName, presence);
        }),
    },
    userAuthentication: {
      customHandler: ({ socketId }, callback) => answer(callback, () => api.authenticateUser(socketId, user)),
    },
    ...options,
  });
  return disconnectedAfter(made);
}

/** Has `client` disconnected when the test ends. */
export function disconnectedAfter(client) {
  clients.push(client);
  return client;
}

function answer(callback, make) {
  try {
    callback(null, make());
  } catch (error) {
    callback(error, null);
  }
}

/** A client that is connected. */
export async function connected(options) {
  const made = client(options);
  await next(made.connection, 'connected');
  return made;
}

/** A channel that is subscribed. */
export async function subscribed(client, name) {
  const channel = client.subscribe(name);
  await next(channel, 'pusher:subscription_succeeded');
  return channel;
}

/** The arguments of the next `event` on anything with `bind`; with `wanted`, of the next that it accepts. */
export function next(emitter, event, wanted = () => true) {
  const heard = new Promise((resolve) => {
    const callback = (...args) => {
      if (wanted(...args)) {
        emitter.unbind(event, callback);
        resolve(args);
      }
    };
    emitter.bind(event, callback);
  });
  return within(PATIENCE_MS, heard, `the event ${event}`);
}

/** Everything that is emitted as `event` from now on, as the first arguments. */
export function record(emitter, event) {
  const heard = [];
  emitter.bind(event, (data) => heard.push(data));
  return heard;
}

/** Returns once the server has dealt with all that this client sent, and the client with all that it was sent before. */
export async function settle(client) {
  const pong = next(client.connection, 'message', (message) => message.event === 'pusher:pong');
  client.send_event('pusher:ping', {});
  await pong;
}

/** Asserts that none of these promises is fulfilled for a while. */
export async function never(...promises) {
  const silence = new Promise((resolve) => setTimeout(resolve, SILENCE_MS, 'silence'));
  assert.equal(await Promise.race([silence, ...promises]), 'silence');
}

/** Waits until `condition` holds. */
export async function until(condition, what, patience_ms = PATIENCE_MS) {
  const deadline = Date.now() + patience_ms;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

let names = 0;

/** A channel name that no other test uses. */
export function fresh(prefix) {
  names += 1;
  return `${prefix}-${names}`;
}
