// Runs the tests of a driver, one after the other, and ends the process when the last is done: with 0 if all passed.
//
// Not `node:test`, which waits for whatever timer a library under test has left behind.

/** How long a test waits for what should come at once, on a machine that is busy with other tests. */
export const PATIENCE_MS = 30_000;

/** What no test takes, whatever it waits for. */
const TEST_MS = 3 * PATIENCE_MS;

let queue = Promise.resolve();
let [waiting, passed, failed] = [0, 0, 0];
const endings = [];

/** Runs `body` once the tests before it have ended. */
export function test(name, body) {
  waiting += 1;
  queue = queue.then(() => run(name, body)).then(endAfterTheLast);
}

/** Has `ending` called after the last test. */
export function atEnd(ending) {
  endings.push(ending);
}

/** The promise, or a failure that says what was awaited. */
export function within(ms, promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function run(name, body) {
  const start = Date.now();
  try {
    await within(TEST_MS, body(), 'the test to end');
    passed += 1;
    console.log(`ok: ${name} (${Date.now() - start} ms)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED: ${name}\n`, error);
  }
}

async function endAfterTheLast() {
  waiting -= 1;
  if (waiting === 0) {
    await Promise.all(endings.map((ending) => ending()));
    console.log(`${passed} passed, ${failed} failed`);
    process.exit(failed === 0 ? 0 : 1);
  }
}
