import { expect, test } from '@jest/globals';
import { createAuthenticator, createKey, revokeKey } from '../../ledger/api-keys.ts';
import { freshLedger } from '../harness/ledger.ts';

test('a revoked key is refused within a second', async () => {
  await using t = await freshLedger();
  let now = 0;
  const authenticate = createAuthenticator(t.pool, () => now);
  const { key, token } = await createKey(t.pool, {
    client: 'shop',
    scopes: ['opt_outs:read'],
    store: undefined,
    expiresAt: undefined,
    caller: undefined,
  });
  expect(await authenticate(token)).toMatchObject({ client: 'shop' });
  await revokeKey(t.pool, key.id, undefined);
  now = 1_000;
  expect(await authenticate(token)).toBeUndefined();
});
