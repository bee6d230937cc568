import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from '@jest/globals';
import { EXAMPLE_LAG } from '../../api/v1/propagation-lag.ts';
import { runAbide } from '../harness/abide.ts';

/** Runs `abide` against an API that gives this answer to everything. */
async function ask(answer: object, ...command: string[]) {
  const api = createServer((_, response) => {
    response.setHeader('content-type', 'application/json').end(JSON.stringify(answer));
  }).listen(0, '127.0.0.1');
  await once(api, 'listening');
  try {
    return await runAbide(command, {
      ABIDE_URL: `http://127.0.0.1:${(api.address() as AddressInfo).port}`,
      ABIDE_KEY: 'any',
    });
  } finally {
    api.close();
  }
}

// A store's last error was the last column: lines of 100 characters, which a terminal of 80 folds.
test('the lag fits a terminal of 80 columns, and the last error of a store has a line of its own', async () => {
  const [store] = EXAMPLE_LAG.stores;
  const report = {
    ...EXAMPLE_LAG,
    stores: [
      { ...store, outstanding: 1930, oldest_outstanding_seconds: 9.125 },
      { ...store, store: 'mail', last_error: { code: 'STORE_TIMEOUT', at: '2026-11-24T08:59:41.000Z' } },
    ],
  };
  const { stdout } = await ask(report, 'lag');

  const lines = stdout.split('\n');
  expect(lines).toContain('last error of mail: STORE_TIMEOUT at 2026-11-24T08:59:41.000Z');
  expect(lines).toContainEqual(expect.stringMatching(/^crm +ok +9.125 s +1930 /));
  expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(80);
});

// A check that runs every minute was content with any server that says {"status":"ok"}: it ended with 0 for ever.
test.each([
  [['lag', '--json', '--fail-on', 'late']],
  [['lag']],
  [['gate', '--store', 'crm', '--json']],
  [['quarantine', 'list', '--store', 'crm']],
])('%j says of a server that is not Abide that it is not', async (command) => {
  const { code, stdout, output } = await ask({ status: 'ok' }, ...command);
  expect(output).toMatch(/^abide: What answers at http:\S+ is not Abide: name where Abide listens/);
  expect([code, stdout]).toEqual([1, '']);
});
