// The server's own demo page, as people would use it.

import assert from 'node:assert/strict';
import { visitor } from './demo-page.mjs';
import { host, port, test, until } from './lib.mjs';

/** Asserts that nothing was asked of any other host, and that nothing went wrong. */
function assertContent(...visitors) {
  for (const { asked, complaints } of visitors) {
    assert.deepEqual(asked.filter((address) => new URL(address).host !== `${host}:${port}`), []);
    assert.deepEqual(complaints, []);
  }
}

test('what one writes, the other reads; and both see who is here', async () => {
  const [ann, bob] = [await visitor(), await visitor()];
  for (const someone of [ann, bob]) {
    await until(async () => (await someone.count()) === 2, 'two are counted');
    await until(async () => (await someone.page.locator('#members > *').count()) === 2, 'two are listed');
  }
  await ann.page.fill('#text', 'hello <b>there</b> ü<script>alert(1)</script>');
  await ann.page.click('#send');
  for (const someone of [ann, bob]) {
    await someone.hears('hello there ü');
  }
  await bob.says('and back');
  for (const someone of [ann, bob]) {
    await someone.hears('and back');
    await someone.page.waitForFunction(() => /\d/.test(document.querySelector('#latency').textContent));
  }
  await bob.page.close();
  await until(async () => (await ann.count()) === 1, 'one is left');
  assertContent(ann, bob);
});

test('comments are edited and deleted, and the thread is there for whoever comes later', async () => {
  const [ann, bob] = [await visitor(), await visitor()];
  await ann.says('first draft');
  await ann.says('a mistake');
  await bob.hears('a mistake');
  assert.equal(await bob.page.locator('#messages button').count(), 0, 'others cannot change it');

  await ann.comment('first draft').getByText('Edit').click();
  await ann.page.fill('#messages .edit input', 'final text');
  await ann.page.press('#messages .edit input', 'Enter');
  await bob.hears('final text');
  await ann.comment('a mistake').getByText('Delete').click();
  await until(async () => !(await bob.comments()).includes('a mistake'), 'the deletion');

  const carl = await visitor();
  await carl.hears('final text');
  assert.deepEqual(await carl.comments(), await bob.comments());
  assertContent(ann, bob, carl);
});

test('readers of every transport, and of the Pusher protocol, read the same', async () => {
  const [ann, bob] = [await visitor(), await visitor()];
  for (const transport of ['ws', 'sse', 'stream', 'longpoll', 'poll', 'pusher', 'auto']) {
    await bob.page.check(`#transports [value=${transport}]`, { force: true });
    await bob.uses(transport === 'auto' ? 'ws' : transport);
    await ann.says(`by ${transport} to bob`);
    await bob.hears(`by ${transport} to bob`);
    await bob.says(`by ${transport} from bob`);
    await ann.hears(`by ${transport} from bob`);
    await bob.hears(`by ${transport} from bob`);
  }
  assert.deepEqual(await bob.comments(), await ann.comments());
  assertContent(ann, bob);
});

test('what comes while the page is hidden is counted in its title', async () => {
  const [ann, bob] = [await visitor(), await visitor()];
  const setHidden = (hidden) => ann.page.evaluate((hidden) => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
  await setHidden(true);
  await bob.says('one');
  await bob.says('two');
  await ann.page.waitForFunction(() => document.title === '(2) Fanfare');
  await setHidden(false);
  assert.equal(await ann.page.title(), 'Fanfare');
});
