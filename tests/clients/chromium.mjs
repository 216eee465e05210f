// pusher-js as browsers load it, in two pages of a real Chromium.

import assert from 'node:assert/strict';
import { pageServer, visitors } from './browser.mjs';
import { address, api, fresh, key, test } from './lib.mjs';

const visit = await visitors();
const url = await pageServer();

/** A page with a connected client, which signs by asking this process: `window.pusher`. */
async function connectedPage(member) {
  const page = await visit(url);
  await page.exposeFunction('authorize', (socketId, channel) => {
    const presence = channel.startsWith('presence-') ? member : undefined;
    return api.authorizeChannel(socketId, channel, presence);
  });
  await page.exposeFunction('authenticate', (socketId) => api.authenticateUser(socketId, { id: member.user_id }));
  await page.evaluate(([key, address]) => {
    const customHandler = ({ socketId, channelName }, callback) =>
      window.authorize(socketId, channelName).then((auth) => callback(null, auth), (error) => callback(error, null));
    const authenticate = ({ socketId }, callback) => window.authenticate(socketId).then((auth) => callback(null, auth));
    window.pusher = new window.Pusher(key, {
      ...address,
      channelAuthorization: { customHandler },
      userAuthentication: { customHandler: authenticate },
    });
    return new Promise((resolve) => window.pusher.connection.bind('connected', resolve));
  }, [key, address]);
  return page;
}

/** Subscribes in a page, which from then on keeps what it hears in `window.heard`; resolves to the member count. */
function subscribe(page, name) {
  return page.evaluate((name) => new Promise((resolve, reject) => {
    window.heard = [];
    const channel = window.pusher.subscribe(name);
    channel.bind_global((event, data) => window.heard.push([event, data]));
    channel.bind('pusher:subscription_succeeded', () => resolve(channel.members?.count));
    channel.bind('pusher:subscription_error', (error) => reject(new Error(JSON.stringify(error))));
  }), name);
}

async function hears(page, event) {
  const found = await page.waitForFunction((event) => window.heard.find(([name]) => name === event), event);
  return (await found.jsonValue())[1];
}

const trigger = (page, name, event, data) =>
  page.evaluate(([name, event, data]) => window.pusher.channel(name).trigger(event, data), [name, event, data]);

test('a publication reaches two pages', async () => {
  const pages = [await connectedPage({ user_id: 'ann' }), await connectedPage({ user_id: 'bob' })];
  const name = fresh('public');
  await Promise.all(pages.map((page) => subscribe(page, name)));
  await api.trigger(name, 'said', { text: 'ü '.repeat(2_000) });
  for (const page of pages) {
    assert.deepEqual(await hears(page, 'said'), { text: 'ü '.repeat(2_000) });
  }
});

test('a message crosses from page to page, and the members know each other', async () => {
  const [ann, bob] = [await connectedPage({ user_id: 'ann', user_info: { name: 'Ann' } }), await connectedPage({ user_id: 'bob' })];
  const name = fresh('presence-room');
  assert.equal(await subscribe(ann, name), 1);
  assert.equal(await subscribe(bob, name), 2);
  assert.equal((await hears(ann, 'pusher:member_added')).id, 'bob');

  await trigger(ann, name, 'client-said', { text: 'hello' });
  assert.deepEqual(await hears(bob, 'client-said'), { text: 'hello' });

  await bob.close();
  assert.equal((await hears(ann, 'pusher:member_removed')).id, 'bob');
  assert.equal(await ann.evaluate((name) => window.pusher.channel(name).members.count, name), 1);
});

test('encrypted channels open in a page', async () => {
  const page = await connectedPage({ user_id: 'ann' });
  const name = fresh('private-encrypted-room');
  await subscribe(page, name);
  await api.trigger(name, 'said', { secret: 1 });
  assert.deepEqual(await hears(page, 'said'), { secret: 1 });
});

test('a user signs in from a page', async () => {
  const page = await connectedPage({ user_id: 'cleo' });
  const signedIn = await page.evaluate(async () => {
    window.pusher.signin();
    await window.pusher.user.signinDonePromise;
    return window.pusher.user.user_data;
  });
  assert.deepEqual(signedIn, { id: 'cleo' });
});
