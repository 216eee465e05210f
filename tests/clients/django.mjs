// The Django example as a visitor sees it: somebody posts through Django's form, and everybody else reads it live.

import assert from 'node:assert/strict';
import { visitors } from './browser.mjs';
import { test } from './runner.mjs';

const { SITE } = process.env;
const visit = await visitors();

/** A page of the thread that is listening. */
async function visitor() {
  const page = await visit(SITE);
  await page.waitForFunction(() => document.getElementById('state').textContent === 'connected');
  const comment = (text) => page.locator('article', { hasText: text });
  return {
    page,
    comment,
    hears: (text) => comment(text).waitFor(),
    async says(user, text) {
      await page.fill('[name=user]', user);
      await page.fill('textarea', text);
      await page.click('text="Comment"');
    },
  };
}

/** Fails if `page` is loaded anew: what it shows then is no longer what it heard. */
async function staysLoaded(page) {
  await page.evaluate(() => (window.mark = true));
  return async () => assert.equal(await page.evaluate(() => window.mark), true);
}

test('a comment that is posted in one tab is read, changed and gone in another', async () => {
  const [ann, bob] = [await visitor(), await visitor()];
  const stayed = await staysLoaded(bob.page);

  await ann.says('ann', 'the spice <b>must</b> flow <script>document.title = "stolen"</script>');
  await bob.hears('the spice must flow');
  assert.equal(await bob.comment('the spice').locator('p').innerHTML(), 'the spice must flow ');
  assert.equal(await bob.page.textContent('#headline'), 'ann in dune: the spice must flow ');

  const own = ann.comment('the spice must flow');
  await own.locator('[name=text]').fill('fear is the mind-killer');
  await own.locator('text="Edit"').click();
  await bob.hears('fear is the mind-killer');
  assert.equal(await bob.page.locator('article').count(), 1);

  await ann.comment('fear is').locator('text="Delete"').click();
  await bob.comment('fear is').waitFor({ state: 'detached' });
  assert.equal(await bob.page.title(), 'Dune — comments');
  await stayed();
});

test('a reader can answer below what was heard', async () => {
  const [ann, bob] = [await visitor(), await visitor()];
  await ann.says('ann', 'who reads this?');
  await bob.hears('who reads this?');
  await bob.comment('who reads this?').locator('[name=text]').fill('everybody does');
  await bob.comment('who reads this?').locator('text="Edit"').click();
  await ann.hears('everybody does');
  assert.equal(await ann.page.locator('article').count(), 1);
});
