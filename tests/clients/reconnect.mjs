// pusher-js across a restart of its server: it is told to come again, comes, and has its channels back by itself.
//
// Says `subscribed` each time it is subscribed; ends well when it has heard an event after the second time.

import assert from 'node:assert/strict';
import { client, next, record } from './lib.mjs';
import { within } from './runner.mjs';

/** A client that comes again before the new server listens tries once more only after its own fifteen seconds. */
const RESTART_MS = 40_000;

const pusher = client({ member: { user_id: 'ann' } });
const errors = record(pusher.connection, 'error');
const rooms = ['room', 'private-room', 'presence-room'].map((name) => pusher.subscribe(name));

await allSubscribed();
const first = pusher.connection.socket_id;
console.log('subscribed');

await allSubscribed();
const heard = next(rooms[0], 'after');
console.log('subscribed');
assert.deepEqual((await heard)[0], 'the restart');

assert.notEqual(pusher.connection.socket_id, first);
assert.equal(errors[0].data.code, 4200);
process.exit(0);

function allSubscribed() {
  const subscribed = (room) => new Promise((resolve) => room.bind('pusher:subscription_succeeded', resolve));
  return within(RESTART_MS, Promise.all(rooms.map(subscribed)), 'the subscriptions');
}
