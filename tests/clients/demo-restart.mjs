// The demo page, open while its server is restarted: gracefully (RESTART=graceful), or not.
//
// Says `commented` when the server may go. After that it waits for the comment `while away` if nothing may be lost, or
// for the page to say that something may be.

import assert from 'node:assert/strict';
import { visitor } from './demo-page.mjs';
import { until } from './lib.mjs';
import { test } from './runner.mjs';

test('the page stays complete, or says that it may not be', async () => {
  const [ann, bob] = [await visitor(), await visitor()];
  await bob.choose('longpoll');
  await ann.says('before');
  await bob.hears('before');
  console.log('commented');

  for (const { page, hears } of [ann, bob]) {
    await (process.env.RESTART === 'graceful' ? hears('while away') : page.locator('#messages .gap').waitFor());
  }
  await until(async () => {
    await ann.says('after');
    return (await ann.page.textContent('#trouble')) === '';
  }, 'a comment to be taken');
  for (const { page, hears, comments } of [ann, bob]) {
    await hears('after');
    assert.equal((await comments())[0], 'before');
    assert.equal(await page.locator('#messages .gap').count(), process.env.RESTART === 'graceful' ? 0 : 1);
  }
});
