// pusher-js across a restart of its server: it is told to come again, comes, and has its channels back by itself.
//
// Says `subscribed` each time it is subscribed; ends well when it has heard an event after the second time.

import assert from 'node:assert/strict';
import { client, next, record } from './lib.mjs';

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
assert.equal(errors[0].error.data.code, 4200);
pusher.disconnect();

function allSubscribed() {
  return Promise.all(rooms.map((room) => next(room, 'pusher:subscription_succeeded')));
}
