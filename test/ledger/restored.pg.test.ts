import { expect, test } from '@jest/globals';
import { freshLedger, grant, intent, outstandingOf, render, report, verified } from '../harness/ledger.ts';
import { openPool } from '../../ledger/database.ts';
import { ledgerRestored } from '../../ledger/restored.ts';
import { grantedSince } from '../../suppression/acknowledgement.ts';

// Ada consented, the store without versions lifted her suppression, and she opted out again. That opt-out was lost with the ledger,
// and the back-fill lifted it in the store as well, before what the store holds could be recorded.
test('what a store without versions suppresses is lifted by no consent of before the restore', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const settle = async (suppressed: readonly string[]) => {
    const [decision] = await outstandingOf(t.ledger, 'crm');
    await t.ledger.acknowledge(
      'crm',
      report([verified(decision!, { held: { version: undefined, suppressed } })]),
    );
    return decision!.subjectId;
  };
  const people = [];
  for (const isTold of [true, false]) {
    await t.ledger.record(intent(`told-${isTold}@example.com`), render);
    const who = await settle(['email', 'sms', 'push']);
    await grant(t, who, ['email']);
    // In one case the backup no longer knows that the store was told of it.
    if (isTold) await settle(['sms', 'push']);
    people.push(who);
  }

  const owner = openPool(t.db.urls.owner, { max: 1, onError: () => undefined });
  await ledgerRestored(owner, { client: 'test', keyId: 'test', address: 'test', requestId: 'test' });
  await owner.end();

  const asked = { after: undefined, limit: 10, waitMs: 0, worker: undefined };
  const page = await t.ledger.outstanding('crm', { ...asked, signal: AbortSignal.timeout(10_000) });
  const { targetSince, decisions } = page!;
  for (const who of people) {
    const { firstAcknowledgedVersion, acknowledgedVersion } = (await t.ledger.newest('crm', who))!;
    const { granted } = decisions.findLast(({ subjectId }) => subjectId === who)!;
    expect(granted).toHaveProperty('email');
    expect(grantedSince(granted, targetSince, firstAcknowledgedVersion)).toEqual({});
    expect(acknowledgedVersion).toBe(0);
  }
});
