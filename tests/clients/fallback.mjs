// pusher-js that was told where HTTP is, and whose WebSockets are blocked: it finds its way by itself.

import assert from 'node:assert/strict';
import { api, client, fresh, next, subscribed, test } from './lib.mjs';

test('a client whose WebSockets are blocked streams over HTTP', async () => {
  const pusher = client({ enabledTransports: undefined });
  await next(pusher.connection, 'connected');
  assert.equal(pusher.connection.connection.transport.name, 'xhr_streaming');

  const channel = await subscribed(pusher, fresh('public'));
  const heard = next(channel, 'said');
  await api.trigger(channel.name, 'said', { text: 'hello' });
  assert.deepEqual((await heard)[0], { text: 'hello' });
});

test('a client whose streams are blocked too polls', async () => {
  const pusher = client({ enabledTransports: undefined, disabledTransports: ['xhr_streaming'] });
  await next(pusher.connection, 'connected');
  assert.equal(pusher.connection.connection.transport.name, 'xhr_polling');
});
