// What a pipeline makes of jobs, in pusher-js; the jobs are put through Pusher's own server library.

import assert from 'node:assert/strict';
import { api, connected, fresh, next, subscribed, test } from './lib.mjs';

async function put(data) {
  const body = { jobs: [{ kind: 'edit', key: data.room, data }] };
  const { status } = await api.post({ path: '/queues/rooms/jobs', body });
  assert.equal(status, 202);
}

test('what a pipeline encrypts is decrypted', async () => {
  const pusher = await connected();
  const room = fresh('room');
  const sealed = await subscribed(pusher, `private-encrypted-${room}`);
  const open = await subscribed(pusher, `open-${room}`);
  const heard = [next(sealed, 'edit'), next(open, 'edit')];
  await put({ room, text: 'only <b>for members</b>, ü' });
  const wanted = { room, text: 'only <b>for members</b>, ü' };
  assert.deepEqual((await Promise.all(heard)).map(([data]) => data), [wanted, wanted]);
});

test('a second record of a room has a nonce of its own', async () => {
  const room = fresh('room');
  const sealed = await subscribed(await connected(), `private-encrypted-${room}`);
  for (const text of ['one', 'two']) {
    const heard = next(sealed, 'edit');
    await put({ room, text });
    assert.deepEqual((await heard)[0], { room, text });
  }
});
