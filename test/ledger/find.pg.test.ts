import { expect, test } from '@jest/globals';
import type { ListFilter } from '../../ledger/contract/opt-outs.ts';
import { openPool } from '../../ledger/database.ts';
import { withClient } from '../harness/database.ts';
import { watchInVain } from '../harness/explain.ts';
import { freshLedger, intent, read, render } from '../harness/ledger.ts';

const ROWS = 120_000;

/** Opt-outs of another client, newer than what was recorded until now. */
const FILL = `
  insert into opt_outs (id, requested_scopes, effective_at, effective_at_stated, received_at, recorded_at, reason, regimes, client,
    key_id, api_version)
  select (lpad(to_hex(n), 12, '0') || '70008' || repeat('0', 15))::uuid, '{email}', now(), false, now(), now(), 'person_request', '{}',
    'large', 'aKeyOfLarge1', 'v1'
  from generate_series($1::bigint, $1::bigint + ${ROWS - 1}) n`;

test('a list of opt-outs looks at no more than it may, however many others have and however rare what is asked for is', async () => {
  await using t = await freshLedger();
  const watched = watchInVain(openPool(t.db.urls.api, { max: 6, onError: () => undefined }));
  const ledger = await t.another(watched.pool);
  const ids: string[] = [];
  for (const who of ['ada@example.com', 'bob@example.com', 'eve@example.com'])
    ids.push(read(await t.ledger.record(intent(who, { reason: 'legal' }), render)).id);
  await withClient(t.db.urls.owner, async (client) => {
    await client.query(FILL, [Date.now() + 60_000]);
    await client.query('vacuum analyze opt_outs');
  });
  await watched.most();

  const all = async (filter: Partial<ListFilter>): Promise<{ found: string[]; inVain: number }> => {
    const found: string[] = [];
    let inVain = 0;
    for (let cursor: string | undefined; ;) {
      const page = await ledger.listOptOuts({ client: undefined, limit: 2, ...filter, cursor });
      found.push(...page!.optOuts.map(({ optOut }) => optOut.id));
      inVain = Math.max(inVain, await watched.most());
      if (page!.nextCursor === undefined) return { found, inVain };
      cursor = page!.nextCursor;
    }
  };
  const newestFirst = ids.toReversed();
  const SOME = 10;
  const MANY = 50_000;

  for (const [filter, found, most] of [
    [{ client: 'shop' }, newestFirst, SOME],
    [{ client: 'shop', reason: 'legal' }, newestFirst, SOME],
    [{ client: 'shop', reason: 'complaint' }, [], SOME],
    [{ client: 'nobody' }, [], SOME],
    [{ reason: 'legal' }, newestFirst, MANY],
    [{ client: 'large', reason: 'legal' }, [], MANY],
    [{ client: 'large', until: new Date(Date.now() - 600_000).toISOString() }, [], MANY],
    [{ since: new Date(Date.now() + 600_000).toISOString() }, [], MANY],
  ] as const) {
    const got = await all(filter);
    expect({ filter, ...got }).toEqual({ filter, found, inVain: expect.any(Number) });
    expect({ filter, atMost: Math.max(most, got.inVain) }).toEqual({ filter, atMost: most });
  }
});
