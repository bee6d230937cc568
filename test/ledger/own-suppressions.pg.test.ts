// What a store suppresses by itself, as its worker tells the ledger: it is recorded once, and only what nobody has decided since.
import { expect, test } from '@jest/globals';
import { readAudit } from '../../ledger/audit.ts';
import type { OpenLedger } from '../../ledger/open-ledger.ts';
import { refillStore, renewLease } from '../../ledger/stores.ts';
import type { Difference, OwnSuppression } from '../../suppression/acknowledgement.ts';
import type { Listed } from '../../suppression/own-suppression.ts';
import { withClient } from '../harness/database.ts';
import {
  freshLedger,
  grant,
  intent,
  outstandingOf,
  render,
  report,
  subject,
  verified,
} from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

const OWN = ['email', 'sms', 'push', 'email/offers'];
const worker = 'worker-1';

/** Store mail, whose worker has the lease and whose own suppressions are recorded; and store crm beside it. */
async function given({ ownScopes = OWN, keyForm = 'plain' } = {}): Promise<TestLedger> {
  const t = await freshLedger();
  await t.register({ name: 'mail', ownScopes, keyForm }, { name: 'crm' });
  expect(await renewLease(t.pool, 'mail', worker, Buffer.from('mail'))).toBe(true);
  return t;
}

const settle = async (t: TestLedger): Promise<void> => {
  for (const name of ['mail', 'crm'])
    await t.ledger.acknowledge(
      name,
      report((await outstandingOf(t.ledger, name)).map((one) => verified(one))),
    );
};
const suppressedOf = async (ledger: OpenLedger, who: string): Promise<string[]> =>
  Object.keys((await ledger.lookupSubject(subject(who))).state.suppressed).sort();

/** A whole pass over the store, which shows what `own` says beyond what was decided. */
async function pass(
  t: TestLedger,
  own: (page: Page) => readonly OwnSuppression[],
  differences: readonly Difference[] = [],
): Promise<Page> {
  await t.ledger.reconcile('mail', { client: 'ops', keyId: 'ops', address: 'here', requestId: 'r-1' });
  const page = (await t.ledger.reconciliationPage('mail', worker))!;
  const ownSuppressions = own(page);
  const comparison = {
    compared: page.decisions.length,
    differences,
    own: ownSuppressions.length,
    unread: 0,
  };
  expect(await t.ledger.compared('mail', page, { ...comparison, ownSuppressions })).toBe(true);
  return page;
}
type Page = NonNullable<Awaited<ReturnType<OpenLedger['reconciliationPage']>>>;

// Found by reading: the page counted as compared, and nothing of it was recorded at any pass.
test('an address that does not open keeps nobody else on its page from being recorded', async () => {
  await using t = await given();
  for (const who of ['ada', 'bob', 'cyd', 'dan', 'eve'])
    await t.ledger.record(intent(`${who}@example.com`, { scopes: ['sms'] }), render);
  await settle(t);
  await withClient(t.db.superuserUrl, async (client) => {
    const damaged = 'set_byte(sealed, 40, get_byte(sealed, 40) # 1)';
    const underAnotherKey = 'set_byte(sealed, 4, 99)';
    for (const [seq, sealed] of [
      [1, damaged],
      [2, damaged],
      [3, underAnotherKey],
    ])
      await client.query(
        `update subjects set sealed = ${sealed} where id = (select subject_id from decisions where seq = $1)`,
        [seq],
      );
  });

  // The store is ahead of the first, who is decided again before anybody is recorded.
  await pass(t, ({ decisions }) => decisions.map(({ seq }) => ({ seq, suppressed: ['email', 'sms'] })), [
    { seq: 1, kind: 'ahead', heldVersion: 7 },
  ]);

  const { rows } = await t.pool.query(
    `select version, state ? 'email' as recorded from subjects
     join (select subject_id as id, min(seq) as seq from decisions group by 1) first using (id) order by seq`,
  );
  expect(rows).toEqual([
    { version: 8, recorded: false },
    { version: 1, recorded: false },
    { version: 1, recorded: false },
    { version: 2, recorded: true },
    { version: 2, recorded: true },
  ]);
  const again = await t.pool.query('select sealed, transport_key_id from decisions where version = 8');
  expect(again.rows).toEqual([{ sealed: null, transport_key_id: null }]);
});

test('of somebody known it becomes an opt-out of the store’s, due to every other store, and once is once', async () => {
  await using t = await given();
  await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render);
  await settle(t);
  const shown = ({ decisions }: Page): OwnSuppression[] => [
    { seq: decisions[0]!.seq, suppressed: ['email', 'fax', 'sms'] },
  ];
  const page = await pass(t, shown);
  expect(page.own).toEqual({ scopes: OWN, others: [] });
  expect(await suppressedOf(t.ledger, 'ada@example.com')).toEqual(['email', 'sms']);
  expect(await outstandingOf(t.ledger, 'crm')).toMatchObject([{ version: 2 }]);
  const [passed] = (await t.ledger.reconciliations('mail', 1))!;
  expect(passed).toMatchObject({ own: 1, recorded: 1 });

  const [optOut] = (await t.ledger.lookupSubject(subject('ada@example.com'))).optOuts;
  expect(optOut?.optOut).toMatchObject({ client: 'store:mail', reason: 'other', requestedScopes: ['email'] });
  const audited = await readAudit(t.pool, { after: 0, limit: 10, action: 'opt_out.recorded' });
  expect(audited.at(-1)).toMatchObject({
    client: 'store:mail',
    resource: optOut!.optOut.id,
    requestId: `reconciliation-${page.run}`,
  });

  await settle(t);
  await pass(t, shown);
  expect((await t.ledger.reconciliations('mail', 1))![0]).toMatchObject({ own: 1, recorded: 0 });
  expect(await readAudit(t.pool, { after: 0, limit: 10, action: 'opt_out.repeated' })).toEqual([]);
});

test('what was decided since the store was read is not undone by what it showed before', async () => {
  await using t = await given();
  await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render);
  await settle(t);
  await pass(t, ({ decisions }) => {
    const [one] = decisions;
    return [{ seq: one!.seq, suppressed: ['email'] }];
  });
  await settle(t);
  expect(await suppressedOf(t.ledger, 'ada@example.com')).toEqual(['email', 'sms']);
  // The page is read, the person consents again, and only then comes what the page showed.
  await t.ledger.reconcile('mail', { client: 'ops', keyId: 'ops', address: 'here', requestId: 'r-1' });
  const page = (await t.ledger.reconciliationPage('mail', worker))!;
  await grant(t, page.decisions[0]!.subjectId, ['email']);
  const own = [{ seq: page.decisions[0]!.seq, suppressed: ['email', 'push'] }];
  const comparison = { compared: 1, differences: [], own: 1, ownSuppressions: own, unread: 0 };
  expect(await t.ledger.compared('mail', page, comparison)).toBe(true);
  expect(await suppressedOf(t.ledger, 'ada@example.com')).toEqual(['sms']);
});

test('of somebody known for what the store does not hold it is asked as well, and of nobody where nothing is recorded', async () => {
  await using t = await given();
  await t.register({ name: 'mail', ownScopes: ['email'], scopes: ['email'] });
  expect(await renewLease(t.pool, 'mail', worker, Buffer.from('mail'))).toBe(true);
  await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render);
  await settle(t);
  const page = await pass(t, ({ own }) => [{ seq: own!.others[0]!.seq, suppressed: ['email'] }]);
  expect(page).toMatchObject({
    decisions: [],
    own: { others: [{ suppressed: { sms: expect.any(String) } }] },
  });
  expect(await suppressedOf(t.ledger, 'ada@example.com')).toEqual(['email', 'sms']);

  await t.register({ name: 'mail', ownScopes: [], scopes: ['email'] });
  await t.ledger.record(intent('bob@example.com', { scopes: ['sms'] }), render);
  await settle(t);
  const none = await pass(t, ({ decisions }) => [{ seq: decisions[0]!.seq, suppressed: ['push'] }]);
  expect(none.own).toBeUndefined();
  expect((await t.ledger.reconciliations('mail', 1))![0]).toMatchObject({ own: 1, recorded: undefined });
  expect(await suppressedOf(t.ledger, 'ada@example.com')).toEqual(['email', 'sms']);
});

const listed = (fields: Partial<Listed> = {}): Listed => ({
  through: { kind: 'email', key: 'zoe@example.com' },
  isLast: false,
  listed: 10,
  suppressed: [],
  ...fields,
});

test('whom only the store knows is recorded, and whom the ledger knows is left to the read-back', async () => {
  await using t = await given();
  await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render);
  const page = (await t.ledger.listingPage('mail', worker))!;
  expect(page).toEqual({ generation: 1, pages: 0, after: undefined, scopes: OWN, pauseMs: 1_000 });
  const suppressed = [
    { kind: 'email' as const, key: 'ada@example.com', scopes: ['email'] },
    { kind: 'email' as const, key: 'Bob@Example.com', scopes: ['email', 'fax'] },
    { kind: 'email' as const, key: 'bob@example.com', scopes: ['sms'] },
    { kind: 'email' as const, key: 'not an address', scopes: ['email'] },
    { kind: 'phone' as const, key: '+442071838750', scopes: ['sms'] },
  ];
  expect(await t.ledger.listed('mail', page, listed({ suppressed }))).toBe(true);
  expect(await suppressedOf(t.ledger, 'ada@example.com')).toEqual(['sms']);
  expect(await suppressedOf(t.ledger, 'bob@example.com')).toEqual(['email', 'sms']);
  expect(
    Object.keys((await t.ledger.lookupSubject(subject('+442071838750', 'phone'))).state.suppressed),
  ).toEqual(['sms']);
  // A page is taken once.
  expect(await t.ledger.listed('mail', page, listed())).toBe(false);
  expect(await t.ledger.listing('mail')).toMatchObject({ listed: 10, recorded: 2, unread: 1 });
});

// The read-back asked for ada@example.com, and the list left her out, since she was known: the unsubscribe in the store stayed
// there alone for ever.
test('somebody known whom the store holds in another spelling is recorded as well, but for what was decided', async () => {
  await using t = await given();
  await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render);
  await t.ledger.record(intent('bob@example.com', { scopes: ['email', 'sms'] }), render);
  const bob = await t.pool.query<{ id: string }>("select id from subjects where state ? 'email'");
  await grant(t, bob.rows[0]!.id, ['email']);
  const suppressed = [
    { kind: 'email' as const, key: 'Ada@Example.com', scopes: ['email', 'sms'] },
    { kind: 'email' as const, key: 'ada@example.com', scopes: ['push'] },
    { kind: 'email' as const, key: 'BOB@example.com', scopes: ['email'] },
  ];
  const page = (await t.ledger.listingPage('mail', worker))!;
  expect(await t.ledger.listed('mail', page, listed({ suppressed }))).toBe(true);
  expect(await suppressedOf(t.ledger, 'ada@example.com')).toEqual(['email', 'sms']);
  // A row that nobody was told of does not take back what the person granted.
  expect(await suppressedOf(t.ledger, 'bob@example.com')).toEqual(['sms']);
  expect(await t.ledger.listing('mail')).toMatchObject({ recorded: 1, unread: 0 });
});

test('it goes on where it was after a restart; where that is stands nowhere in the clear', async () => {
  await using t = await given();
  const first = (await t.ledger.listingPage('mail', worker))!;
  await t.ledger.listed('mail', first, listed({ through: { kind: 'email', key: 'kay@example.com' } }));
  const another = await t.another();
  const next = (await another.listingPage('mail', worker))!;
  expect(next).toMatchObject({ pages: 1, after: { kind: 'email', key: 'kay@example.com' } });
  const { rows } = await t.pool.query<{ text: string }>('select listings::text as text from listings');
  expect(rows[0]!.text).not.toContain(Buffer.from('kay@').toString('hex'));

  await another.listed('mail', next, listed({ through: undefined, isLast: true, listed: 0 }));
  // The list is over: it rests, unless it is asked for, and then somebody waits.
  expect(await t.ledger.listingPage('mail', worker)).toBeUndefined();
  await t.ledger.reconcile('mail', { client: 'ops', keyId: 'ops', address: 'here', requestId: 'r-1' });
  expect(await t.ledger.listingPage('mail', worker)).toMatchObject({
    pages: 0,
    after: undefined,
    pauseMs: 0,
  });
  await t.pool.query("update listings set finished_at = clock_timestamp() - interval '61 seconds'");
  expect(await t.ledger.listingPage('mail', worker)).toMatchObject({ pages: 0, pauseMs: 1_000 });
});

test('only the worker with the lease is told to list, and what it listed of the store that was is not taken', async () => {
  await using t = await given();
  expect(await t.ledger.listingPage('mail', 'another')).toBeUndefined();
  expect(await t.ledger.listingPage('nowhere', worker)).toBeUndefined();
  const page = (await t.ledger.listingPage('mail', worker))!;
  await refillStore(t.pool, 'mail', 'test', undefined);
  const suppressed = [{ kind: 'email' as const, key: 'bob@example.com', scopes: ['email'] }];
  expect(await t.ledger.listed('mail', page, listed({ suppressed }))).toBe(false);
  expect(await suppressedOf(t.ledger, 'bob@example.com')).toEqual([]);
  expect(await t.ledger.listingPage('mail', worker)).toMatchObject({ generation: 2, pages: 0 });
});

test.each([
  ['of which nothing is recorded', { ownScopes: [] }],
  ['with hashed keys', { keyForm: 'sha256:hex' }],
])('of a store %s nothing is listed', async (_, fields) => {
  await using t = await given(fields);
  expect(await t.ledger.listingPage('mail', worker)).toBeUndefined();
  expect(await t.ledger.listing('mail')).toBeUndefined();
  const suppressed = [{ kind: 'email' as const, key: 'bob@example.com', scopes: ['email'] }];
  expect(await t.ledger.listed('mail', { generation: 1, pages: 0 }, listed({ suppressed }))).toBe(false);
  expect(await suppressedOf(t.ledger, 'bob@example.com')).toEqual([]);
});
