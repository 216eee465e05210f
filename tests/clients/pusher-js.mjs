// pusher-js in Node: every call that the library has.

import assert from 'node:assert/strict';
import PusherJs from 'pusher-js';
import {
  address, api, apiWith, client, connected, disconnectedAfter, fresh, key, never, next, record, settle, subscribed, test, transport,
  until,
} from './lib.mjs';

test('a connection gets a socket id and an activity timeout', async () => {
  const pusher = client();
  const states = record(pusher.connection, 'state_change');
  const [{ socket_id: socketId }] = await next(pusher.connection, 'connected');
  assert.match(socketId, /^\d+\.\d+$/);
  assert.equal(pusher.connection.socket_id, socketId);
  assert.equal(pusher.connection.activityTimeout, 120_000);
  pusher.disconnect();
  assert.deepEqual(states.map((state) => state.current), ['connected', 'disconnected']);
});

test('an unknown key is refused for good, with code 4001', async () => {
  const pusher = disconnectedAfter(new PusherJs('unknown', address));
  const [error] = await next(pusher.connection, 'error');
  assert.equal(error.error.data.code, 4001);
  await until(() => pusher.connection.state === 'disconnected', 'the client gives up');
});

test('a quiet client pings, and stays connected', async () => {
  const pusher = await connected({ activityTimeout: 300, pongTimeout: 2_000 });
  const errors = record(pusher.connection, 'error');
  const first = pusher.connection.socket_id;
  for (const _ of [1, 2, 3]) {
    // Over HTTP neither the ping nor its answer is a message.
    await (transport === 'ws'
      ? next(pusher.connection, 'message', (message) => message.event === 'pusher:pong')
      : new Promise((resolve) => setTimeout(resolve, 1_000)));
  }
  assert.equal(pusher.connection.socket_id, first);
  assert.deepEqual(errors, []);
});

test('data arrives as it was published', async () => {
  const channel = await subscribed(await connected(), fresh('public'));
  for (const data of [{ a: [1, null, 'ü', '\u2028"\\'] }, 'plain words', ['list'], { nested: '{"json":1}' }]) {
    const heard = next(channel, 'said');
    await api.trigger(channel.name, 'said', data);
    assert.deepEqual(await heard, [data, {}]);
  }
});

test('events come in the order in which they were published', async () => {
  const channel = await subscribed(await connected(), fresh('public'));
  const heard = record(channel, 'n');
  const numbers = Array.from({ length: 200 }, (_, n) => ({ n }));
  for (let at = 0; at < numbers.length; at += 10) {
    const batch = numbers.slice(at, at + 10);
    await api.triggerBatch(batch.map((data) => ({ channel: channel.name, name: 'n', data })));
  }
  await until(() => heard.length === numbers.length, 'all events');
  assert.deepEqual(heard, numbers);
});

test('a publisher can leave out its own socket', async () => {
  const [one, two] = [await connected(), await connected()];
  const name = fresh('public');
  const [mine, yours] = [await subscribed(one, name), await subscribed(two, name)];
  const [unheard, heard] = [record(mine, 'said'), next(yours, 'said')];
  await api.trigger(name, 'said', 'to others', { socket_id: one.connection.socket_id });
  assert.equal((await heard)[0], 'to others');
  await settle(one);
  assert.deepEqual(unheard, []);
});

test('every way to bind and to unbind', async () => {
  const pusher = await connected();
  const channel = await subscribed(pusher, fresh('public'));
  const counts = { channel: 0, channelGlobal: 0, client: 0, clientGlobal: 0, context: 0 };
  const count = (name) => () => (counts[name] += 1);
  const onChannel = count('channel');
  const onChannelGlobal = (event) => event === 'said' && (counts.channelGlobal += 1);
  const onClientGlobal = (event) => event === 'said' && (counts.clientGlobal += 1);
  const publish = async () => {
    await api.trigger(channel.name, 'said', 'hello');
    await settle(pusher);
  };

  channel.bind('said', onChannel);
  channel.bind('said', function () { counts.context += this.step; }, { step: 1 });
  channel.bind_global(onChannelGlobal);
  pusher.bind('said', count('client'));
  pusher.bind_global(onClientGlobal);
  await publish();
  assert.deepEqual(counts, { channel: 1, channelGlobal: 1, client: 1, clientGlobal: 1, context: 1 });

  channel.unbind('said', onChannel);
  channel.unbind_global(onChannelGlobal);
  pusher.unbind('said');
  pusher.unbind_global(onClientGlobal);
  await publish();
  assert.deepEqual(counts, { channel: 1, channelGlobal: 1, client: 1, clientGlobal: 1, context: 2 });

  channel.unbind_all();
  pusher.unbind_all();
  await publish();
  assert.deepEqual(counts, { channel: 1, channelGlobal: 1, client: 1, clientGlobal: 1, context: 2 });
});

test('channels are known by name, and gone after an unsubscribe', async () => {
  const pusher = await connected();
  const channel = await subscribed(pusher, fresh('public'));
  assert.equal(pusher.channel(channel.name), channel);
  assert.deepEqual(pusher.allChannels(), [channel]);

  const heard = record(pusher, 'said');
  pusher.unsubscribe(channel.name);
  await settle(pusher);
  await api.trigger(channel.name, 'said', 'to nobody');
  await settle(pusher);
  assert.deepEqual(heard, []);
  assert.deepEqual(pusher.allChannels(), []);

  await subscribed(pusher, channel.name);
  await api.trigger(channel.name, 'said', 'to somebody');
  await until(() => heard.length === 1, 'the event after subscribing again');
});

test('a subscription that is cancelled while pending ends', async () => {
  const pusher = await connected();
  const name = fresh('public');
  const channel = pusher.subscribe(name);
  pusher.unsubscribe(name);
  await until(() => !pusher.channel(name), 'the channel is forgotten');
  await settle(pusher);
  const response = await api.get({ path: `/channels/${name}` });
  assert.deepEqual(await response.json(), { occupied: false });
  assert.equal(channel.subscribed, false);
});

test('private channels need a signature', async () => {
  const channel = await subscribed(await connected(), fresh('private-room'));
  const heard = next(channel, 'said');
  await api.trigger(channel.name, 'said', { secret: true });
  assert.deepEqual((await heard)[0], { secret: true });
});

test('a wrong signature is an error of the channel, and the connection stays', async () => {
  const liar = (_, callback) => callback(null, { auth: `${key}:${'0'.repeat(64)}` });
  const pusher = await connected({ channelAuthorization: { customHandler: liar } });
  const channel = pusher.subscribe(fresh('private-room'));
  const general = next(pusher.connection, 'error');
  const [error] = await next(channel, 'pusher:subscription_error');
  assert.equal(error.type, 'AuthError');
  assert.equal(error.status, 401);
  assert.equal((await general)[0].type, 'PusherError');
  assert.equal(channel.subscribed, false);
  await settle(pusher);
});

test('an auth endpoint that fails is an error of the channel', async () => {
  const broken = (_, callback) => setTimeout(callback, 1, new Error('no'), null);
  const pusher = await connected({ channelAuthorization: { customHandler: broken } });
  const failed = next(pusher.subscribe(fresh('private-room')), 'pusher:subscription_error');
  assert.equal((await failed)[0].error, 'no');
});

test('presence counts one, two, one on both sides', async () => {
  const name = fresh('presence-room');
  const ann = await connected({ member: { user_id: 'ann', user_info: { name: 'Ann' } } });
  const room = await subscribed(ann, name);
  assert.equal(room.members.count, 1);
  assert.deepEqual(room.members.me, { id: 'ann', info: { name: 'Ann' } });

  const added = next(room, 'pusher:member_added');
  const bob = await connected({ member: { user_id: 7, user_info: { name: 'Bob' } } });
  const theirs = await subscribed(bob, name);
  assert.deepEqual((await added)[0], { id: '7', info: { name: 'Bob' } });
  assert.deepEqual([room.members.count, theirs.members.count], [2, 2]);
  assert.deepEqual(theirs.members.get('ann'), { id: 'ann', info: { name: 'Ann' } });
  const seen = [];
  theirs.members.each((member) => seen.push(member.id));
  assert.deepEqual(seen.sort(), ['7', 'ann']);

  const removed = next(room, 'pusher:member_removed');
  bob.unsubscribe(name);
  assert.deepEqual((await removed)[0], { id: '7', info: { name: 'Bob' } });
  assert.equal(room.members.count, 1);
});

test('a user with two sockets joins once and leaves once', async () => {
  const name = fresh('presence-room');
  const ann = await connected({ member: { user_id: 'ann' } });
  const room = await subscribed(ann, name);
  const [added, removed] = [record(room, 'pusher:member_added'), record(room, 'pusher:member_removed')];

  const phone = await connected({ member: { user_id: 'bob' } });
  const laptop = await connected({ member: { user_id: 'bob' } });
  await subscribed(phone, name);
  const theirs = await subscribed(laptop, name);
  assert.equal(theirs.members.count, 2);
  phone.disconnect();
  await settle(laptop);
  await until(async () => (await subscribers(name)) === 2, 'the phone is gone');
  await settle(ann);
  assert.deepEqual([added.length, removed.length], [1, 0]);
  laptop.disconnect();
  await until(() => removed.length === 1, 'the user has left');
  assert.deepEqual([added.length, room.members.count], [1, 1]);
});

async function subscribers(channel) {
  const response = await api.get({ path: `/channels/${channel}`, params: { info: 'subscription_count' } });
  return (await response.json()).subscription_count;
}

test('a signed-in user may join presence channels without channel data', async () => {
  const user = { id: 'carol', user_info: { name: 'Carol' } };
  const signer = ({ socketId, channelName }, callback) => callback(null, api.authorizeChannel(socketId, channelName));
  const pusher = await connected({ user, channelAuthorization: { customHandler: signer } });
  pusher.signin();
  const room = await subscribed(pusher, fresh('presence-room'));
  assert.equal(room.members.myID, 'carol');
  assert.deepEqual(room.members.me, { id: 'carol', info: { name: 'Carol' } });
});

test('encrypted channels carry what only the members can read', async () => {
  const channel = await subscribed(await connected(), fresh('private-encrypted-room'));
  const heard = next(channel, 'said');
  await api.trigger(channel.name, 'said', { secret: 'ü' });
  assert.deepEqual((await heard)[0], { secret: 'ü' });
  assert.throws(() => channel.trigger('client-said', {}), /not currently supported for encrypted/);
});

test('a client fetches a new key when an encrypted event does not open', async () => {
  const other = apiWith({ encryptionMasterKeyBase64: Buffer.alloc(32, 'other').toString('base64') });
  const keys = [api, other];
  const asked = [];
  const customHandler = ({ socketId, channelName }, callback) => {
    asked.push(channelName);
    callback(null, (keys.shift() ?? other).authorizeChannel(socketId, channelName));
  };
  const channel = await subscribed(await connected({ channelAuthorization: { customHandler } }), fresh('private-encrypted-room'));
  const heard = next(channel, 'said');
  await other.trigger(channel.name, 'said', 'with the new key');
  assert.equal((await heard)[0], 'with the new key');
  assert.equal(asked.length, 2);
});

for (const prefix of ['cache', 'private-cache', 'private-encrypted-cache', 'presence-cache']) {
  test(`${prefix} channels begin with their last event, or a miss`, async () => {
    const name = fresh(prefix);
    const early = await connected({ member: { user_id: 'early' } });
    await next(early.subscribe(name), 'pusher:cache_miss');
    await api.trigger(name, 'said', { n: 1 });
    await api.trigger(name, 'said', { n: 2 });

    const late = await connected({ member: { user_id: 'late' } });
    const channel = late.subscribe(name);
    const order = [];
    channel.bind_global((event) => order.push(event));
    assert.deepEqual((await next(channel, 'said'))[0], { n: 2 });
    await settle(late);
    const wanted = ['pusher:subscription_succeeded', 'said'];
    assert.deepEqual(order.filter((event) => event !== 'pusher:subscription_count'), wanted);
  });
}

test('client events reach the others and not their sender', async () => {
  const name = fresh('private-room');
  const [one, two] = [await connected(), await connected()];
  const [mine, theirs] = [await subscribed(one, name), await subscribed(two, name)];
  const unheard = record(mine, 'client-said');
  for (const data of [{ object: { n: 1 } }, 'text', ['list'], 5]) {
    const heard = next(theirs, 'client-said');
    assert.equal(mine.trigger('client-said', data), true);
    assert.deepEqual(await heard, [data, {}]);
  }
  await settle(one);
  assert.deepEqual(unheard, []);
  assert.throws(() => mine.trigger('said', {}), /does not start with 'client-'/);
});

test('client events on presence channels say who sent them', async () => {
  const name = fresh('presence-room');
  const ann = await connected({ member: { user_id: 'ann' } });
  const bob = await connected({ member: { user_id: 'bob' } });
  const [mine, theirs] = [await subscribed(ann, name), await subscribed(bob, name)];
  const heard = next(theirs, 'client-said');
  mine.trigger('client-said', { user_id: 'mallory' });
  assert.deepEqual(await heard, [{ user_id: 'mallory' }, { user_id: 'ann' }]);
});

test('client events on public channels are refused, and the connection stays', async () => {
  const name = fresh('public');
  const [one, two] = [await connected(), await connected()];
  const [mine, theirs] = [await subscribed(one, name), await subscribed(two, name)];
  const [heard, error] = [next(theirs, 'client-said'), next(one.connection, 'error')];
  heard.catch(() => {});
  mine.trigger('client-said', {});
  assert.match((await error)[0].data.message, /private and presence/i);
  await settle(one);
  await never(heard);
});

test('more client events than allowed are refused with 4301, and the connection stays', async () => {
  const pusher = await connected();
  const channel = await subscribed(pusher, fresh('private-room'));
  const error = next(pusher.connection, 'error');
  for (let n = 0; n < 20; n += 1) {
    channel.trigger('client-said', { n });
  }
  assert.equal((await error)[0].data.code, 4301);
  await settle(pusher);
});

test('subscribers are counted, and told', async () => {
  const name = fresh('public');
  const channel = (await connected()).subscribe(name);
  const counts = record(channel, 'pusher:subscription_count');
  await until(() => counts.at(-1)?.subscription_count === 1, 'a count of one');
  const other = await connected();
  await subscribed(other, name);
  await until(() => counts.at(-1)?.subscription_count === 2, 'a count of two');
  assert.equal(channel.subscriptionCount, 2);
  other.disconnect();
  await until(() => counts.at(-1)?.subscription_count === 1, 'a count of one again');
});

test('a user signs in and gets what is sent to the user', async () => {
  const pusher = await connected({ user: { id: 'dora', user_info: { name: 'Dora' } } });
  pusher.signin();
  await pusher.user.signinDonePromise;
  assert.deepEqual(pusher.user.user_data, { id: 'dora', user_info: { name: 'Dora' } });
  await next(pusher.connection, 'message', (message) =>
    message.event === 'pusher_internal:subscription_succeeded' && message.channel === '#server-to-user-dora');

  const [heard, everything] = [next(pusher.user, 'notice'), []];
  pusher.user.bind_global((event, data) => everything.push([event, data]));
  await api.sendToUser('dora', 'notice', { n: 1 });
  assert.deepEqual((await heard)[0], { n: 1 });
  assert.deepEqual(everything.filter(([event]) => event === 'notice'), [['notice', { n: 1 }]]);
});

test('a wrong sign-in is an error, and nobody is signed in', async () => {
  const liar = (_, callback) => callback(null, { auth: `${key}:${'0'.repeat(64)}`, user_data: '{"id":"eve"}' });
  const pusher = await connected({ userAuthentication: { customHandler: liar } });
  const error = next(pusher.connection, 'error');
  pusher.signin();
  assert.equal((await error)[0].type, 'PusherError');
  assert.equal(pusher.user.user_data, null);
});

test('an authentication endpoint that fails is an error of the user', async () => {
  const broken = (_, callback) => callback(new Error('no'), null);
  const pusher = await connected({ userAuthentication: { customHandler: broken } });
  const error = next(pusher.user, 'pusher:signin_error');
  pusher.signin();
  assert.equal((await error)[0].error, 'no');
});

test('a watchlist tells who is online, who is not, and who comes and goes', async () => {
  const there = await connected({ user: { id: 'gina' } });
  there.signin();
  await there.user.signinDonePromise;

  const pusher = await connected({ user: { id: 'fred', watchlist: ['gina', 'hugo'] } });
  const [online, offline] = [next(pusher.user.watchlist, 'online'), next(pusher.user.watchlist, 'offline')];
  pusher.signin();
  assert.deepEqual((await online)[0], { name: 'online', user_ids: ['gina'] });
  assert.deepEqual((await offline)[0], { name: 'offline', user_ids: ['hugo'] });

  const comes = next(pusher.user.watchlist, 'online');
  const hugo = await connected({ user: { id: 'hugo' } });
  hugo.signin();
  assert.deepEqual((await comes)[0].user_ids, ['hugo']);

  const goes = next(pusher.user.watchlist, 'offline');
  hugo.disconnect();
  assert.deepEqual((await goes)[0].user_ids, ['hugo']);
});

test('a user whose connections are terminated is closed with 4009 and does not come back', async () => {
  const pusher = await connected({ user: { id: 'ivan' } });
  pusher.signin();
  await pusher.user.signinDonePromise;
  const bystander = await connected({ member: { user_id: 'ivan' } });
  await subscribed(bystander, fresh('presence-room'));
  const error = next(pusher.connection, 'error', ({ error }) => error?.data);
  await api.terminateUserConnections('ivan');
  assert.equal((await error)[0].error.data.code, 4009);
  await until(() => pusher.connection.state === 'disconnected', 'the client gives up');
  await settle(bystander);
});

test('a client that disconnects and connects has its channels and its user back', async () => {
  const pusher = await connected({ user: { id: 'jane' } });
  pusher.signin();
  const channel = await subscribed(pusher, fresh('private-room'));
  const first = pusher.connection.socket_id;
  pusher.disconnect();
  pusher.connect();
  await next(channel, 'pusher:subscription_succeeded');
  await pusher.user.signinDonePromise;
  assert.notEqual(pusher.connection.socket_id, first);
  const [heard, notice] = [next(channel, 'said'), next(pusher.user, 'notice')];
  await api.trigger(channel.name, 'said', 'again');
  await api.sendToUser('jane', 'notice', 'again');
  assert.deepEqual([(await heard)[0], (await notice)[0]], ['again', 'again']);
});

test('switching clusters keeps the channels', async () => {
  const pusher = await connected();
  const channel = await subscribed(pusher, fresh('public'));
  pusher.switchCluster({ appKey: key, cluster: 'elsewhere' });
  await next(channel, 'pusher:subscription_succeeded');
  const heard = next(channel, 'said');
  await api.trigger(channel.name, 'said', 'still here');
  assert.equal((await heard)[0], 'still here');
});
