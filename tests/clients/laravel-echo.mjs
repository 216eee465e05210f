// Laravel Echo over pusher-js: every call that it has for the Pusher driver.

import assert from 'node:assert/strict';
import Echo from 'laravel-echo';
import Pusher from 'pusher-js';
import { address, api, client, disconnectedAfter, fresh, key, next, record, settle, test, until } from './lib.mjs';
import { PATIENCE_MS, within } from './runner.mjs';

/** An Echo of a Laravel user, and the pusher-js client below it. */
async function echo(options = {}) {
  const pusher = client(options);
  const made = disconnectedAfter(new Echo({ broadcaster: 'pusher', key, client: pusher }));
  await next(pusher.connection, 'connected');
  return { echo: made, pusher };
}

/** The first call of a callback that is handed to `bind`. */
function called(bind) {
  return within(PATIENCE_MS, new Promise((resolve) => bind(resolve)), 'a callback');
}

const ready = (channel) => called((callback) => channel.subscribed(callback));

test('the reverb driver connects with the same library', async () => {
  const { cluster, ...options } = address;
  const made = disconnectedAfter(new Echo({ broadcaster: 'reverb', key, Pusher, ...options }));
  await until(() => made.connectionStatus() === 'connected', 'connected');
  assert.match(made.socketId(), /^\d+\.\d+$/);
});

test('listen on a channel, and stop', async () => {
  const { echo: laravel, pusher } = await echo();
  const name = fresh('orders');
  const channel = laravel.channel(name);
  await ready(channel);
  const shipped = [];
  const callback = (data) => shipped.push(data);
  channel.listen('OrderShipped', callback).listen('.raw', callback);
  const all = [];
  const hearAll = (event) => all.push(event);
  channel.listenToAll(hearAll);

  await api.trigger(name, 'App\\Events\\OrderShipped', { order: 1 });
  await api.trigger(name, 'raw', { order: 2 });
  await settle(pusher);
  assert.deepEqual(shipped, [{ order: 1 }, { order: 2 }]);
  assert.deepEqual(all.filter((event) => !event.includes('pusher')), ['OrderShipped', '.raw']);

  channel.stopListening('OrderShipped', callback).stopListening('.raw');
  channel.stopListeningToAll(hearAll);
  await api.trigger(name, 'App\\Events\\OrderShipped', { order: 3 });
  await settle(pusher);
  assert.equal(shipped.length, 2);
});

test('listen in one call, and leave', async () => {
  const { echo: laravel, pusher } = await echo();
  const name = fresh('orders');
  const heard = [];
  await ready(laravel.listen(name, 'OrderShipped', (data) => heard.push(data)));
  laravel.leaveChannel(name);
  await settle(pusher);
  await api.trigger(name, 'App\\Events\\OrderShipped', {});
  await settle(pusher);
  assert.deepEqual([heard, pusher.allChannels()], [[], []]);
});

test('private channels: events, whispers, notifications', async () => {
  const [ann, bob] = [await echo(), await echo()];
  const name = fresh('user');
  const [mine, theirs] = [ann.echo.private(name), bob.echo.private(name)];
  await Promise.all([ready(mine), ready(theirs)]);

  const event = called((callback) => mine.listen('OrderShipped', callback));
  await api.trigger(`private-${name}`, 'App\\Events\\OrderShipped', { order: 1 });
  assert.deepEqual(await event, { order: 1 });

  const unheard = [];
  mine.listenForWhisper('typing', (data) => unheard.push(data));
  const heard = [];
  const hear = (data) => heard.push(data);
  theirs.listenForWhisper('typing', hear);
  mine.whisper('typing', { name: 'Ann' });
  await until(() => heard.length === 1, 'a whisper');
  assert.deepEqual(heard, [{ name: 'Ann' }]);
  theirs.stopListeningForWhisper('typing', hear);
  mine.whisper('typing', { name: 'Ann' });
  await settle(ann.pusher);
  await settle(bob.pusher);
  assert.deepEqual([heard.length, unheard], [1, []]);

  const notes = [];
  const note = (data) => notes.push(data);
  mine.notification(note);
  const broadcast = 'Illuminate\\Notifications\\Events\\BroadcastNotificationCreated';
  await api.trigger(`private-${name}`, broadcast, { type: 'Paid' });
  await settle(ann.pusher);
  mine.stopListeningForNotification(note);
  await api.trigger(`private-${name}`, broadcast, { type: 'Again' });
  await settle(ann.pusher);
  assert.deepEqual(notes, [{ type: 'Paid' }]);
});

test('a channel that is refused tells so', async () => {
  const customHandler = (_, callback) => callback(null, { auth: `${key}:${'0'.repeat(64)}` });
  const { echo: laravel } = await echo({ channelAuthorization: { customHandler } });
  const error = await called((callback) => laravel.private(fresh('user')).error(callback));
  assert.deepEqual([error.type, error.status], ['AuthError', 401]);
});

test('encrypted private channels', async () => {
  const { echo: laravel } = await echo();
  const name = fresh('safe');
  const channel = laravel.encryptedPrivate(name);
  await ready(channel);
  const heard = called((callback) => channel.listen('OrderShipped', callback));
  await api.trigger(`private-encrypted-${name}`, 'App\\Events\\OrderShipped', { order: 'ü' });
  assert.deepEqual(await heard, { order: 'ü' });
});

test('join: here, joining, leaving, whispers', async () => {
  const ann = await echo({ member: { user_id: 1, user_info: { id: 1, name: 'Ann' } } });
  const bob = await echo({ member: { user_id: 2, user_info: { id: 2, name: 'Bob' } } });
  const name = fresh('chat');
  const room = ann.echo.join(name);
  assert.deepEqual(await called((callback) => room.here(callback)), [{ id: 1, name: 'Ann' }]);

  const joining = called((callback) => room.joining(callback));
  const theirs = bob.echo.join(name);
  const here = await called((callback) => theirs.here(callback));
  assert.deepEqual(here.map((user) => user.name).sort(), ['Ann', 'Bob']);
  assert.deepEqual(await joining, { id: 2, name: 'Bob' });

  const whisper = called((callback) => theirs.listenForWhisper('typing', callback));
  room.whisper('typing', { at: 1 });
  assert.deepEqual(await whisper, { at: 1 });

  const leaving = called((callback) => room.leaving(callback));
  bob.echo.leave(name);
  assert.deepEqual(await leaving, { id: 2, name: 'Bob' });
});

test('leave ends every kind of a channel, leaveAllChannels all of them', async () => {
  const { echo: laravel, pusher } = await echo({ member: { user_id: 'ann' } });
  const name = fresh('thing');
  const all = [laravel.channel(name), laravel.private(name), laravel.join(name), laravel.encryptedPrivate(name)];
  await Promise.all(all.map(ready));
  laravel.leave(name);
  await settle(pusher);
  assert.deepEqual(pusher.allChannels(), []);

  const more = [laravel.channel(name), laravel.private(name)];
  await Promise.all(more.map(ready));
  laravel.leaveAllChannels();
  await settle(pusher);
  const { occupied } = await (await api.get({ path: `/channels/${name}` })).json();
  assert.deepEqual([pusher.allChannels(), occupied], [[], false]);
});

test('the connection can be watched, ended and taken up again', async () => {
  const { echo: laravel } = await echo();
  const seen = [];
  const stop = laravel.connector.onConnectionChange((status) => seen.push(status));
  assert.equal(laravel.connectionStatus(), 'connected');
  laravel.disconnect();
  await until(() => seen.at(-1) === 'disconnected', 'disconnected');
  laravel.connector.pusher.connect();
  await until(() => seen.at(-1) === 'connected', 'connected again');
  stop();
});

test('sign-in goes through the connector', async () => {
  const { echo: laravel, pusher } = await echo({ user: { id: 'ann' } });
  laravel.connector.signin();
  await pusher.user.signinDonePromise;
  assert.equal(pusher.user.user_data.id, 'ann');
});
