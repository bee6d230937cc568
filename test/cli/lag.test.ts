import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from '@jest/globals';
import { EXAMPLE_LAG } from '../../api/v1/propagation-lag.ts';
import { runAbide } from '../harness/abide.ts';

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
  const api = createServer((_, answer) => {
    answer.setHeader('content-type', 'application/json').end(JSON.stringify(report));
  }).listen(0, '127.0.0.1');
  await once(api, 'listening');
  try {
    const { stdout } = await runAbide(['lag'], {
      ABIDE_URL: `http://127.0.0.1:${(api.address() as AddressInfo).port}`,
      ABIDE_KEY: 'any',
    });

    const lines = stdout.split('\n');
    expect(lines).toContain('last error of mail: STORE_TIMEOUT at 2026-11-24T08:59:41.000Z');
    expect(lines).toContainEqual(expect.stringMatching(/^crm +ok +9.125 s +1930 /));
    expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(80);
  } finally {
    api.close();
  }
});
