// The Node server library: every call that it has, seen from both ends.

import assert from 'node:assert/strict';
import Pusher from 'pusher';
import {
  api, apiWith, appId, connected, fresh, host, key, next, port, record, secret, settle, subscribed, test, until,
} from './lib.mjs';

/** The answer of a call, which must be 200. */
async function body(call) {
  const response = await call;
  assert.equal(response.status, 200);
  assert.match(response.headers.get('content-type'), /^application\/json/);
  return response.json();
}

/** The refusal of a call. */
async function refusal(call) {
  const error = await call.then(() => assert.fail('was not refused'), (error) => error);
  assert.ok(error instanceof Pusher.RequestError, error);
  return error;
}

test('trigger on one channel', async () => {
  const channel = await subscribed(await connected(), fresh('public'));
  const heard = next(channel, 'said');
  assert.deepEqual(await body(api.trigger(channel.name, 'said', { n: 1 })), {});
  assert.deepEqual((await heard)[0], { n: 1 });
});

test('trigger on a hundred channels, and not on more', async () => {
  const pusher = await connected();
  const names = Array.from({ length: 100 }, () => fresh('public'));
  const channels = await Promise.all([names[0], names[99]].map((name) => subscribed(pusher, name)));
  const heard = channels.map((channel) => next(channel, 'said'));
  assert.deepEqual(await body(api.trigger(names, 'said', 'to all')), {});
  for (const [data] of await Promise.all(heard)) {
    assert.equal(data, 'to all');
  }
  const tooMany = [...names, fresh('public')];
  const event = { name: 'said', data: 'x', channels: tooMany };
  assert.equal((await refusal(api.post({ path: '/events', body: event }))).status, 400);
});

test('trigger tells how many listen when asked', async () => {
  const room = fresh('presence-room');
  const open = fresh('public');
  await subscribed(await connected({ member: { user_id: 'ann' } }), room);
  await subscribed(await connected({ member: { user_id: 'ann' } }), room);
  await subscribed(await connected(), open);
  const empty = fresh('public');
  const info = 'subscription_count,user_count';
  assert.deepEqual(await body(api.trigger([room, open, empty], 'said', 'x', { info })), {
    channels: {
      [room]: { subscription_count: 2, user_count: 1 },
      [open]: { subscription_count: 1 },
      [empty]: { subscription_count: 0 },
    },
  });
});

test('trigger leaves out a socket', async () => {
  const pusher = await connected();
  const channel = await subscribed(pusher, fresh('public'));
  const heard = record(channel, 'said');
  await body(api.trigger(channel.name, 'said', 'x', { socket_id: pusher.connection.socket_id }));
  await settle(pusher);
  assert.deepEqual(heard, []);
});

test('trigger on an encrypted channel', async () => {
  const channel = await subscribed(await connected(), fresh('private-encrypted-room'));
  const heard = next(channel, 'said');
  assert.deepEqual(await body(api.trigger(channel.name, 'said', { n: 1 })), {});
  assert.deepEqual((await heard)[0], { n: 1 });
});

test('triggerBatch', async () => {
  const pusher = await connected();
  const one = await subscribed(pusher, fresh('public'));
  const two = await subscribed(pusher, fresh('private-encrypted-room'));
  const heard = [next(one, 'said'), next(two, 'said')];
  const batch = () => [
    { channel: one.name, name: 'said', data: { n: 1 } },
    { channel: two.name, name: 'said', data: 'two' },
  ];
  assert.deepEqual(await body(api.triggerBatch(batch())), {});
  assert.deepEqual((await Promise.all(heard)).map(([data]) => data), [{ n: 1 }, 'two']);

  const excluding = batch().map((event) => ({ ...event, socket_id: pusher.connection.socket_id }));
  const unheard = record(one, 'said');
  assert.deepEqual(await body(api.triggerBatch(excluding)), {});
  await settle(pusher);
  assert.deepEqual(unheard, []);
});

test('triggerBatch tells how many listen, event by event', async () => {
  const room = fresh('presence-room');
  await subscribed(await connected({ member: { user_id: 'ann' } }), room);
  const batch = [
    { channel: room, name: 'said', data: 'x', info: 'user_count' },
    { channel: fresh('public'), name: 'said', data: 'x' },
    { channel: fresh('public'), name: 'said', data: 'x', info: 'subscription_count' },
  ];
  assert.deepEqual(await body(api.triggerBatch(batch)), {
    batch: [{ user_count: 1 }, {}, { subscription_count: 0 }],
  });
});

test('triggerBatch takes ten events, and not eleven', async () => {
  const events = (count) => Array.from({ length: count }, () => ({ channel: fresh('public'), name: 'said', data: 'x' }));
  assert.deepEqual(await body(api.triggerBatch(events(10))), {});
  assert.equal((await refusal(api.triggerBatch(events(11)))).status, 400);
});

test('sendToUser', async () => {
  const pusher = await connected({ user: { id: 'kate' } });
  pusher.signin();
  await pusher.user.signinDonePromise;
  await settle(pusher);
  const heard = next(pusher.user, 'notice');
  assert.deepEqual(await body(api.sendToUser('kate', 'notice', { n: 1 })), {});
  assert.deepEqual((await heard)[0], { n: 1 });
  assert.deepEqual(await body(api.sendToUser('nobody', 'notice', 'x')), {});
});

test('terminateUserConnections', async () => {
  const pusher = await connected({ user: { id: '=l,i@a;m.' } });
  pusher.signin();
  await pusher.user.signinDonePromise;
  await settle(pusher);
  assert.deepEqual(await body(api.terminateUserConnections('=l,i@a;m.')), {});
  await until(() => pusher.connection.state === 'disconnected', 'the connection is closed');
});

// The library signs the id as it is, and `fetch` escapes it on the way.
for (const id of ['user id/ü', 'a%2Fb', 'x/terminate_connections']) {
  test(`terminateUserConnections of ${id}`, async () => {
    assert.deepEqual(await body(api.terminateUserConnections(id)), {});
  });
}

test('get channels', async () => {
  const room = fresh('presence-list');
  const open = fresh('public-list');
  await subscribed(await connected({ member: { user_id: 'ann' } }), room);
  await subscribed(await connected(), open);

  const all = await body(api.get({ path: '/channels' }));
  assert.deepEqual([all.channels[room], all.channels[open]], [{}, {}]);
  const list = (params) => body(api.get({ path: '/channels', params }));
  assert.deepEqual(await list({ filter_by_prefix: 'public-list' }), { channels: { [open]: {} } });
  assert.deepEqual(await list({ filter_by_prefix: 'presence-list', info: 'user_count' }), {
    channels: { [room]: { user_count: 1 } },
  });
  assert.deepEqual(await list({ filter_by_prefix: 'nothing-' }), { channels: {} });
  assert.equal((await refusal(api.get({ path: '/channels', params: { info: 'user_count' } }))).status, 400);
});

test('get one channel', async () => {
  const room = fresh('presence-room');
  const cache = fresh('cache');
  const pusher = await connected({ member: { user_id: 'ann' } });
  await subscribed(pusher, room);
  await subscribed(pusher, cache);
  const look = (name, info) => body(api.get({ path: `/channels/${name}`, params: info ? { info } : {} }));

  assert.deepEqual(await look(room), { occupied: true });
  assert.deepEqual(await look(room, 'user_count,subscription_count'), {
    occupied: true,
    user_count: 1,
    subscription_count: 1,
  });
  assert.deepEqual(await look(fresh('public')), { occupied: false });
  assert.deepEqual(await look(cache, 'cache'), { occupied: true, cache: null });
  await api.trigger(cache, 'said', { n: 1 });
  const cached = (await look(cache, 'cache')).cache;
  assert.equal(cached.data, '{"n":1}');
  assert.ok(cached.ttl > 0 && cached.ttl <= 1800, cached.ttl);
  const wrong = api.get({ path: `/channels/${cache}`, params: { info: 'user_count' } });
  assert.equal((await refusal(wrong)).status, 400);
});

test('get the users of a channel', async () => {
  const room = fresh('presence-room');
  await subscribed(await connected({ member: { user_id: 1 } }), room);
  assert.deepEqual(await body(api.get({ path: `/channels/${room}/users` })), { users: [{ id: '1' }] });
  assert.deepEqual(await body(api.get({ path: `/channels/${fresh('presence-room')}/users` })), { users: [] });
  assert.equal((await refusal(api.get({ path: `/channels/${fresh('public')}/users` }))).status, 400);
});

test('createSignedQueryString signs a request of one\'s own', async () => {
  const path = `/apps/${appId}/channels`;
  const query = api.createSignedQueryString({ method: 'GET', path, params: { filter_by_prefix: 'nothing-' } });
  const response = await fetch(`http://${host}:${port}${path}?${query}`);
  assert.deepEqual([response.status, await response.json()], [200, { channels: {} }]);
});

test('forURL', async () => {
  const made = Pusher.forURL(`http://${key}:${secret}@${host}:${port}/apps/${appId}`);
  assert.deepEqual(await body(made.trigger(fresh('public'), 'said', 'x')), {});
});

test('authorizeChannel and authenticateUser', async () => {
  const { socket_id: id } = (await connected()).connection;
  const [auth, user] = [api.authorizeChannel(id, 'private-room'), api.authenticateUser(id, { id: 'ann' })];
  assert.match(auth.auth, new RegExp(`^${key}:[0-9a-f]{64}$`));
  assert.deepEqual(JSON.parse(user.user_data), { id: 'ann' });
});

test('a wrong secret is 401, with the string that was to be signed', async () => {
  const { status, body: text } = await refusal(apiWith({ secret: 'wrong' }).trigger('room', 'said', 'x'));
  assert.equal(status, 401);
  assert.match(text, new RegExp(`POST\\\\?n?\\n?.*/apps/${appId}/events`, 's'));
});

test('an unknown key is 401, an unknown app 404', async () => {
  assert.equal((await refusal(apiWith({ key: 'unknown' }).trigger('room', 'said', 'x'))).status, 401);
  assert.ok([401, 404].includes((await refusal(apiWith({ appId: '404' }).trigger('room', 'said', 'x'))).status));
});

test('too much data is 413', async () => {
  assert.equal((await refusal(api.trigger('room', 'said', 'x'.repeat(10 * 1024 + 1)))).status, 413);
  assert.deepEqual(await body(api.trigger('room', 'said', 'x'.repeat(10 * 1024))), {});
});

test('what is no event is 400', async () => {
  for (const event of [{}, { name: 'said', data: 'x' }, { name: '', data: 'x', channel: 'room' }, { name: 'said', channel: 'a b', data: 'x' }]) {
    assert.equal((await refusal(api.post({ path: '/events', body: event }))).status, 400, JSON.stringify(event));
  }
});

test('what is nowhere is 404', async () => {
  assert.equal((await refusal(api.get({ path: '/nowhere' }))).status, 404);
});
