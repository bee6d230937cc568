import { randomUUID } from 'node:crypto';
import { expect, test } from '@jest/globals';
import {
  propagationIn,
  freshLedger,
  grant,
  intent,
  outstandingOf,
  read,
  render,
  report,
  verified,
} from '../harness/ledger.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { explainLag, explainPage, explainSettle } from '../harness/explain.ts';
import type { Outstanding } from '../../ledger/contract/outstanding.ts';
import { changeStore, refillStore } from '../../ledger/stores.ts';
import { readLag } from '../../ledger/propagation-lag.ts';
import type { Acknowledgement } from '../../suppression/acknowledgement.ts';
import type { TestLedger } from '../harness/ledger.ts';

const settled = async (t: TestLedger) =>
  (await t.pool.query('select seq, outcome from acknowledgements order by seq')).rows.map((row) => [
    row.seq,
    row.outcome,
  ]);

test('what a store verifiably holds is settled once; the same report again is a duplicate', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const { id } = read(await t.ledger.record(intent('ada@example.com'), render));
  const [decision] = await outstandingOf(t.ledger, 'crm');
  expect(await t.ledger.acknowledge('crm', report([verified(decision!)]))).toEqual({
    accepted: 1,
    duplicate: 0,
    rejected: [],
  });
  expect(await t.ledger.acknowledge('crm', report([verified(decision!)]))).toEqual({
    accepted: 0,
    duplicate: 1,
    rejected: [],
  });
  expect(await outstandingOf(t.ledger, 'crm')).toEqual([]);
  const found = await t.ledger.findOptOut(id, undefined);
  expect(found?.propagation).toMatchObject({ state: 'complete', required: 1, confirmed: 1, verified: 1 });
  expect(found?.propagation.firstCompletedAt).toBe(found?.propagation.stores[0]?.acknowledgedAt);
});

test('a store that says yes and holds nothing settles nothing', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  const [decision] = await outstandingOf(t.ledger, 'crm');
  const lie = verified(decision!, { held: { version: 1, suppressed: ['email'] } });
  expect(await t.ledger.acknowledge('crm', report([lie]))).toMatchObject({
    accepted: 0,
    rejected: [{ seq: 1, code: 'not_verifiable' }],
  });
  const applied = verified(decision!, { outcome: 'applied' });
  expect(await t.ledger.acknowledge('crm', report([applied]))).toMatchObject({
    rejected: [{ seq: 1, code: 'not_verifiable' }],
  });
  expect(await settled(t)).toEqual([]);
  expect(await outstandingOf(t.ledger, 'crm')).toHaveLength(1);
});

// Found by thinking: the newer one was acknowledged before the exception of the older one was committed, and nothing cleared it.
test('what was driven again in the moment in which a newer decision was acknowledged is not outstanding for ever', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
  await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render);
  const [older, newer] = await outstandingOf(t.ledger, 'crm');
  const driveAgain = () =>
    t.pool.query(
      `insert into exceptions (store_id, generation, seq, subject_id, version, speaks_from, kind, code, attempts, since, next_try_at)
       select 1, 1, seq, subject_id, version, seq, 'redrive', 'missing', 0, now(), now() from decisions where seq = $1`,
      [older!.seq],
    );
  const holdsNewer = verified(older!, { held: { version: 2, suppressed: ['email', 'sms'] } });

  await driveAgain();
  await t.ledger.acknowledge('crm', report([holdsNewer]));
  // The newer one is still to come, and then speaks for both.
  expect(await outstandingOf(t.ledger, 'crm')).toMatchObject([{ seq: older!.seq }, { seq: newer!.seq }]);
  await t.ledger.acknowledge('crm', report([verified(newer!)]));
  await driveAgain();
  expect(await outstandingOf(t.ledger, 'crm')).toMatchObject([{ seq: older!.seq }]);
  expect(await t.ledger.acknowledge('crm', report([holdsNewer]))).toMatchObject({
    duplicate: 1,
    rejected: [],
  });
  expect(await outstandingOf(t.ledger, 'crm')).toEqual([]);
});

test('foreign, mistaken and outdated acknowledgements are refused by name', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' }, { name: 'sms', scopes: ['sms'] });
  await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
  const [decision] = await outstandingOf(t.ledger, 'crm');
  const codes = async (store: string, fields: object, generation = 1) =>
    (await t.ledger.acknowledge(store, report([verified(decision!, fields)], { generation }))).rejected.map(
      ({ code }) => code,
    );
  expect(await codes('crm', { seq: 99 })).toEqual(['unknown_seq']);
  expect(await codes('crm', { version: 2 })).toEqual(['version_mismatch']);
  expect(await codes('crm', { subjectId: randomUUID() })).toEqual(['version_mismatch']);
  expect(await codes('sms', {})).toEqual(['not_due']);
  expect(await codes('crm', {}, 2)).toEqual(['old_generation']);
  expect(await settled(t)).toEqual([]);
});

test('an acknowledgement supersedes every older decision of its subject, and only then', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  for (const scopes of [['email'], ['sms'], ['push']] as const) {
    await t.ledger.record(intent('ada@example.com', { scopes }), render);
  }
  await t.ledger.record(intent('bob@example.com'), render);
  const [one, , three] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(one!, { outcome: 'refused', code: 'NO' })]));
  expect((await t.ledger.lag()).stores[0]).toMatchObject({ outstanding: 4, quarantined: 1 });
  await t.ledger.acknowledge('crm', report([verified(three!)]));
  expect(await settled(t)).toEqual([
    [1, 'superseded'],
    [2, 'superseded'],
    [3, 'verified'],
  ]);
  expect((await t.pool.query('select from exceptions')).rowCount).toBe(0);
  expect((await outstandingOf(t.ledger, 'crm')).map(({ seq }) => seq)).toEqual([4]);
});

test('a store that holds a version the ledger never gave is drift: the subject is decided again above it', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  const [decision] = await outstandingOf(t.ledger, 'crm');
  const ahead = verified(decision!, { held: { version: 41, suppressed: ['email', 'sms', 'push'] } });
  expect((await t.ledger.acknowledge('crm', report([ahead]))).rejected).toEqual([
    { seq: 1, code: 'ahead_of_ledger' },
  ]);
  const again = await outstandingOf(t.ledger, 'crm');
  expect(again.map(({ version }) => version)).toEqual([1, 42]);
  await t.ledger.acknowledge('crm', report([verified(again[1]!)]));
  expect(await outstandingOf(t.ledger, 'crm')).toEqual([]);
});

// Seen: a record that somebody else had written to the topic was told to the store, and the report that shows it thrown away.
test('a version that something else left in a store is followed, though what was carried is no decision', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  const [decision] = await outstandingOf(t.ledger, 'crm');
  const reported = async (version: number): Promise<unknown> => {
    const held = { version, suppressed: [] };
    return (await t.ledger.acknowledge('crm', report([verified(decision!, { version, held })]))).rejected;
  };
  for (const version of [2 ** 52 + 1, 41])
    expect(await reported(version)).toEqual([{ seq: decision!.seq, code: 'version_mismatch' }]);
  const again = await outstandingOf(t.ledger, 'crm');
  expect(again.map(({ version }) => version)).toEqual([1, 42]);
});

test('a store that is ahead again and again is followed thrice an hour for one person; then it is in quarantine there, and late', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' }, { name: 'mail' });
  await t.ledger.record(intent('ada@example.com'), render);
  await t.ledger.record(intent('bob@example.com'), render);
  const [ada, bob] = (await outstandingOf(t.ledger, 'crm')) as [Outstanding, Outstanding];
  const decisions = async (): Promise<number> => (await t.pool.query('select from decisions')).rowCount!;
  const versions = async (store: string): Promise<number[]> =>
    (await outstandingOf(t.ledger, store))
      .filter(({ subjectId }) => subjectId === ada.subjectId)
      .map(({ version }) => version);
  const ahead = async (store: string, one: Outstanding, version: number): Promise<unknown> => {
    const held = { held: { version, suppressed: ['email', 'sms', 'push'] } };
    return (await t.ledger.acknowledge(store, report([verified(one, held)]))).rejected;
  };
  for (const version of [11, 21, 31, 41, 51])
    expect(await ahead('crm', ada, version)).toEqual([{ seq: ada.seq, code: 'ahead_of_ledger' }]);

  expect(await decisions()).toBe(2 + 3);
  // The lag is cached for a moment.
  const expectQuarantined = (crm: number): Promise<void> =>
    eventually(async () =>
      expect((await t.ledger.lag()).stores.map(({ quarantined }) => quarantined)).toEqual([crm, 0]),
    );
  await expectQuarantined(1);
  const { rows } = await t.pool.query('select code, version, attempts from exceptions');
  expect(rows).toEqual([{ code: 'AHEAD_OF_LEDGER', version: 32, attempts: 2 }]);
  // It is given out to nobody until its time comes, and neither is what it speaks for.
  expect(await versions('mail')).toContain(32);
  expect(await versions('crm')).not.toContain(32);

  // Another person there, and the same person at another store, are followed.
  await ahead('crm', bob, 5);
  await ahead('mail', ada, 101);
  expect(await decisions()).toBe(2 + 3 + 2);

  // What it acknowledged is outstanding again as well.
  const settled = (await outstandingOf(t.ledger, 'crm')).find(({ version }) => version === 102)!;
  await t.ledger.acknowledge('crm', report([verified(settled)]));
  await expectQuarantined(0);
  await ahead('crm', settled, 200);
  await expectQuarantined(1);

  await withClient(t.db.superuserUrl, (client) =>
    client.query("set session_replication_role = replica; update audit_log set at = at - interval '1 hour'"),
  );
  await ahead('crm', settled, 200);
  expect(await decisions()).toBe(2 + 3 + 2 + 1);
  const last = (await outstandingOf(t.ledger, 'crm')).find(({ version }) => version === 201)!;
  await t.ledger.acknowledge('crm', report([verified(last)]));
  expect(await versions('crm')).toEqual([]);
  await expectQuarantined(0);
});

test("a grant is verified only once what it lifted is lifted; a suppression of the store's own is believed at the second try", async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  const [first] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(first!)]));
  await grant(t, first!.subjectId, ['email']);
  const [lifted] = await outstandingOf(t.ledger, 'crm');
  const stillHeld = { held: { version: 2, suppressed: ['email', 'sms', 'push'] } };
  expect((await t.ledger.acknowledge('crm', report([verified(lifted!, stillHeld)]))).rejected).toEqual([
    { seq: 2, code: 'not_verifiable' },
  ]);
  expect(
    await t.ledger.acknowledge('crm', report([verified(lifted!, { ...stillHeld, attempts: 2 })])),
  ).toMatchObject({
    accepted: 1,
  });
});

test('a store that was told nothing of somebody may suppress what they had granted before it was added', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  const [first] = await outstandingOf(t.ledger, 'crm');
  await grant(t, first!.subjectId, ['email']);
  await t.register({ name: 'crm' }, { name: 'mail' });
  const ofMail = () =>
    eventually(async () => {
      const [decision] = await outstandingOf(t.ledger, 'mail');
      if (decision === undefined) throw new Error('nothing is given out yet');
      return decision;
    });
  const held = (version: number) => ({ held: { version, suppressed: ['email', 'sms', 'push'] } });
  const filled = verified(await ofMail(), held(2));
  expect(await t.ledger.acknowledge('mail', report([filled]))).toMatchObject({ accepted: 1, rejected: [] });
  // What is granted from then on must be lifted.
  await grant(t, first!.subjectId, ['sms']);
  const lifted = verified(await ofMail(), held(3));
  expect((await t.ledger.acknowledge('mail', report([lifted]))).rejected).toEqual([
    { seq: 3, code: 'not_verifiable' },
  ]);
});

test('a store without versions that was told of a grant is believed where it suppresses that by itself, once it is driven again', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  const [first] = await outstandingOf(t.ledger, 'crm');
  const held = (suppressed: readonly string[]) => ({ held: { version: undefined, suppressed } });
  await t.ledger.acknowledge('crm', report([verified(first!, held(['email', 'sms', 'push']))]));
  await grant(t, first!.subjectId, ['email']);
  const acknowledged = async () => (await t.ledger.newest('crm', first!.subjectId))?.acknowledgedVersion;
  expect(await acknowledged()).toBe(1);
  const [second] = await outstandingOf(t.ledger, 'crm');
  const asOne = verified(second!, held(['email', 'sms', 'push']));
  expect(await t.ledger.acknowledge('crm', report([asOne]))).toMatchObject({
    rejected: [{ code: 'not_verifiable' }],
  });
  await t.ledger.acknowledge('crm', report([verified(second!, held(['sms', 'push']))]));
  expect(await acknowledged()).toBe(2);
  await t.pool.query(
    `insert into exceptions (store_id, generation, seq, subject_id, version, speaks_from, kind, code, attempts, since, next_try_at)
     select s.id, 1, d.seq, d.subject_id, d.version, d.seq, 'redrive', 'DRIFT_MISSING', 1, now(), now()
     from stores s, decisions d where d.version = 2`,
  );
  expect(await t.ledger.acknowledge('crm', report([asOne]))).toMatchObject({ accepted: 0, rejected: [] });
  expect((await t.pool.query('select from exceptions')).rowCount).toBe(0);
  // Filled anew, it has still been told; put back from an older copy, or elsewhere, it has not.
  const told = async () => {
    const { acknowledgedVersion, firstAcknowledgedVersion } = (await t.ledger.newest(
      'crm',
      first!.subjectId,
    ))!;
    return [acknowledgedVersion, firstAcknowledgedVersion];
  };
  expect(await told()).toEqual([2, 1]);
  await t.register({ name: 'crm', scopes: ['email', 'sms', 'push', 'email/newsletter'] });
  expect(await told()).toEqual([2, 1]);
  // As if the mark had come there: what comes after it stays live.
  await t.pool.query('update stores set backfill_live_through = 2');
  expect(await refillStore(t.pool, 'crm', 'asked for', undefined)).toBe(true);
  await t.ledger.refresh();
  const [again] = await eventually(async () => {
    const outstanding = await outstandingOf(t.ledger, 'crm');
    expect(outstanding).toMatchObject([{ version: 2, lane: 'backfill' }]);
    return outstanding;
  });
  const refilled = verified(again!, { ...held(['email', 'sms', 'push']), carriedBy: 'backfill' });
  const ofThird = (...acknowledgements: Acknowledgement[]) => report(acknowledgements, { generation: 3 });
  expect(await t.ledger.acknowledge('crm', ofThird(refilled))).toMatchObject({ accepted: 1, rejected: [] });
  await t.ledger.acknowledge('crm', { ...ofThird(), observed: { incarnation: 'first', canary: undefined } });
  await t.ledger.acknowledge('crm', { ...ofThird(), observed: { incarnation: 'copy', canary: undefined } });
  expect(await told()).toEqual([0, 0]);
  await t.ledger.refresh();
  await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
  const [third] = await outstandingOf(t.ledger, 'crm');
  const all = verified(third!, held(['email', 'email/newsletter', 'sms', 'push']));
  await t.ledger.acknowledge('crm', report([all], { generation: 4 }));
  expect(await told()).toEqual([3, 3]);
  await t.register({ name: 'crm', fingerprint: Buffer.from('elsewhere') });
  expect(await told()).toEqual([0, 0]);
});

test('failures park a decision with its clock running; it is asked for again and a success clears it', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const { id } = read(await t.ledger.record(intent('ada@example.com'), render));
  const [decision] = await outstandingOf(t.ledger, 'crm');
  const failed = (attempts: number) =>
    report([verified(decision!, { outcome: 'failed', code: 'NOT_HELD', attempts })]);
  await t.ledger.acknowledge('crm', failed(1));
  expect((await t.pool.query('select from exceptions')).rowCount).toBe(0);
  await t.ledger.acknowledge('crm', failed(5));
  expect((await propagationIn(t.ledger, id))?.stores).toMatchObject([
    { state: 'quarantined', reason: 'NOT_HELD', attempts: 5 },
  ]);
  expect(await outstandingOf(t.ledger, 'crm')).toEqual([]);
  expect((await t.ledger.lag()).stores[0]).toMatchObject({ outstanding: 1, quarantined: 1 });
  await t.pool.query('update exceptions set next_try_at = clock_timestamp()');
  const [retried] = await outstandingOf(t.ledger, 'crm');
  expect(retried).toMatchObject({ seq: 1, attempts: 5 });
  await t.ledger.acknowledge('crm', report([verified(retried!, { carriedBy: 'retry', attempts: 6 })]));
  expect((await propagationIn(t.ledger, id))?.state).toBe('complete');
});

// Another worker had the newer opt-out acknowledged while a lift was on its way, and the store failed once it was lifted. A failure of
// an acknowledged decision was ignored, and nothing was outstanding.
test('what a lift has undone in a store is outstanding again until a later try, whatever was under way before', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm', evidence: 'applied' });
  const carried = async () => {
    const due = await outstandingOf(t.ledger, 'crm');
    await t.ledger.acknowledge('crm', report(due.map((one) => verified(one, { outcome: 'applied' }))));
    return due;
  };
  await t.ledger.record(intent('ada@example.com'), render);
  const [older] = await carried();
  await grant(t, older!.subjectId, ['email']);
  await carried();
  const { id } = read(await t.ledger.record(intent('ada@example.com'), render));
  const [newer] = await carried();
  const takes = async (decision: Outstanding, fields: Partial<Acknowledgement>) =>
    t.ledger.acknowledge('crm', report([verified(decision, fields)]));

  // A late report of an earlier try makes nothing outstanding, nor does one about what is not the newest any more.
  await takes(newer!, { outcome: 'failed', code: 'NOT_HELD', attempts: 5 });
  await takes(older!, { outcome: 'failed', code: 'LIFT_NOT_UNDONE' });
  expect(await outstandingOf(t.ledger, 'crm')).toEqual([]);

  for (let n = 0; n < 2; n += 1)
    expect(await takes(newer!, { outcome: 'failed', code: 'LIFT_NOT_UNDONE' })).toMatchObject({
      accepted: 1,
    });
  expect((await readLag(t.pool)).stores[0]).toMatchObject({ outstanding: 1, drift: 1 });
  expect(await propagationIn(t.ledger, id)).toMatchObject({
    state: 'pending',
    stores: [{ state: 'pending', reason: 'LIFT_NOT_UNDONE' }],
  });

  // Another worker carried it before the lift arrived, and says so only now.
  expect(await takes(newer!, { outcome: 'applied' })).toMatchObject({ accepted: 0, duplicate: 1 });
  const [again] = await outstandingOf(t.ledger, 'crm');
  expect(again).toMatchObject({ seq: newer!.seq, asked: 2 });
  // Nor does one end it that began between two lifts.
  expect(await takes(newer!, { outcome: 'applied', asked: 1 })).toMatchObject({ duplicate: 1 });
  await takes(again!, { outcome: 'applied', asked: again!.asked });
  expect((await propagationIn(t.ledger, id))?.state).toBe('complete');
  expect(await outstandingOf(t.ledger, 'crm')).toEqual([]);

  // The store had refused it, and took it at a try that was under way when the lift arrived.
  const { id: next } = read(await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render));
  await grant(t, older!.subjectId, ['sms']);
  await carried();
  const last = read(await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render));
  expect(last.id).not.toBe(next);
  const [refused] = await outstandingOf(t.ledger, 'crm');
  await takes(refused!, { outcome: 'refused', code: 'HTTP_422' });
  await takes(refused!, { outcome: 'failed', code: 'LIFT_NOT_UNDONE' });
  expect(await takes(refused!, { outcome: 'applied' })).toMatchObject({ duplicate: 1 });
  expect((await propagationIn(t.ledger, last.id))?.state).toBe('pending');
});

test('what a worker read before it lost the lease does not clear what the next one found the store to refuse', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const { id } = read(await t.ledger.record(intent('ada@example.com'), render));
  const [decision] = await outstandingOf(t.ledger, 'crm');
  const of = (worker: string, ...acknowledgements: Acknowledgement[]) => {
    const one = report(acknowledgements);
    return t.ledger.acknowledge('crm', { ...one, worker: { ...one.worker, id: worker } });
  };
  await of('frozen');
  await t.pool.query("update stores set lease_until = clock_timestamp() - interval '1 second'");
  await of('next');
  await of('next', verified(decision!, { outcome: 'refused', code: 'HTTP_422' }));
  const parked = { outstanding: 1, quarantined: 1 };
  expect((await t.ledger.lag()).stores[0]).toMatchObject(parked);

  expect(await of('frozen', verified(decision!))).toEqual({ accepted: 0, duplicate: 1, rejected: [] });
  expect((await readLag(t.pool)).stores[0]).toMatchObject(parked);
  expect((await propagationIn(t.ledger, id))?.state).toBe('pending');

  expect(await of('next', verified(decision!))).toMatchObject({ accepted: 1 });
  expect((await propagationIn(t.ledger, id))?.state).toBe('complete');
});

test('somebody absent is neither confirmed nor late: counted apart, complete, and asked for again', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const { id } = read(await t.ledger.record(intent('ada@example.com'), render));
  const [decision] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(decision!, { outcome: 'absent' })]));
  expect(await propagationIn(t.ledger, id)).toMatchObject({
    state: 'complete',
    confirmed: 0,
    stores: [{ state: 'absent' }],
  });
  expect((await t.ledger.lag()).stores[0]).toMatchObject({
    outstanding: 0,
    absent: 1,
    oldest_outstanding_seconds: 0,
  });
  await t.pool.query('update exceptions set next_try_at = clock_timestamp()');
  expect(await outstandingOf(t.ledger, 'crm')).toHaveLength(1);
});

// The store was paused meanwhile, and was told only of the newest: the consent is not given out past it.
test('whoever is absent for a decision is absent for the older ones, also for a consent and for what was parked', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const absent = { outcome: 'absent', code: 'ABSENT', held: { version: undefined, suppressed: [] } } as const;
  await t.ledger.record(intent('ada@example.com'), render);
  const [first] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(first!, { outcome: 'refused', code: 'NO' })]));
  await grant(t, first!.subjectId, ['email']);
  await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
  await grant(t, first!.subjectId, ['sms']);
  await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render);
  const later = await outstandingOf(t.ledger, 'crm');
  expect(later.map(({ version }) => version)).toEqual([2, 3, 4, 5]);
  await t.ledger.acknowledge('crm', report([verified(later[1]!, absent), verified(later[3]!, absent)]));
  const lag = async () => (await t.ledger.lag()).stores[0];
  expect(await lag()).toMatchObject({ outstanding: 0, quarantined: 0, absent: 5 });
  await eventually(async () => expect(await lag()).toMatchObject({ verified_through: 5 }));
  await t.pool.query('update exceptions set next_try_at = clock_timestamp()');
  const again = await outstandingOf(t.ledger, 'crm');
  // Once the person is there, the newest settles all of them.
  await t.ledger.acknowledge('crm', report([verified(again.find(({ version }) => version === 5)!)]));
  await eventually(async () => expect(await lag()).toMatchObject({ outstanding: 0, absent: 0 }));
});

// A table of the user's own in which the canary is nobody: there was one more of it every minute, each asked for again hourly.
test('of a canary that a store does not have, it is not asked for those of long ago', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const addresses = { email: 'c@canary.invalid', phone: '+1', push_token: 'c', person_id: 'c' };
  await using canaries = await t.another(undefined, undefined, { everySeconds: 0.05, addresses });
  const absent = { outcome: 'absent', code: 'ABSENT', held: { version: undefined, suppressed: [] } } as const;
  await eventually(async () => {
    const due = await outstandingOf(canaries, 'crm');
    await canaries.acknowledge('crm', report(due.map((one) => verified(one, absent))));
    expect(due.at(-1)?.version).toBeGreaterThan(20);
    expect((await t.pool.query('select from exceptions')).rowCount).toBeLessThan(10);
  });
});

test('the mark follows what is settled, stops below what is not, and passes what is parked', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  for (const who of ['a', 'b', 'c', 'd']) await t.ledger.record(intent(`${who}@example.com`), render);
  const [a, b, c] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(a!), verified(c!)]));
  const marks = async () =>
    (await t.pool.query('select scanned_through as mark from stores')).rows[0].mark as number;
  await eventually(async () => expect(await marks()).toBe(1));
  await t.ledger.acknowledge('crm', report([verified(b!, { outcome: 'refused', code: 'NO' })]));
  await eventually(async () => expect(await marks()).toBe(3));
  expect((await t.ledger.lag()).stores[0]).toMatchObject({ verified_through: 1, outstanding: 2 });
});

test('an open write transaction elsewhere delays the mark and nothing else', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await withClient(new URL('/postgres', t.db.superuserUrl).href, async (other) => {
    await other.query('begin');
    await other.query('select pg_current_xact_id()');
    const { id } = read(await t.ledger.record(intent('ada@example.com'), render));
    const [decision] = await outstandingOf(t.ledger, 'crm');
    await t.ledger.acknowledge('crm', report([verified(decision!)]));
    expect((await propagationIn(t.ledger, id))?.state).toBe('complete');
    expect((await t.ledger.lag()).stores[0]).toMatchObject({ outstanding: 0, verified_through: 0 });
    await other.query('commit');
  });
  await eventually(async () => expect((await t.ledger.lag()).stores[0]?.verified_through).toBe(1));
});

test('a store added to a running history is back-filled completely, and shows so until it is', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const first = read(await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render));
  await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render);
  await t.ledger.record(intent('bob@example.com'), render);
  for (const decision of await outstandingOf(t.ledger, 'crm'))
    await t.ledger.acknowledge('crm', report([verified(decision)]));
  const completed = (await t.ledger.findOptOut(first.id, undefined))?.propagation.firstCompletedAt;

  await t.register({ name: 'crm' }, { name: 'mail' });
  expect((await t.ledger.lag()).stores.find(({ store }) => store === 'mail')?.backfill).toMatchObject({
    remaining: 2,
  });
  expect(await propagationIn(t.ledger, first.id)).toMatchObject({
    state: 'pending',
    firstCompletedAt: completed,
  });
  await t.ledger.record(intent('cyd@example.com'), render);
  const due = await eventually(async () => {
    const all = await outstandingOf(t.ledger, 'mail');
    expect(all.map(({ seq, lane }) => [seq, lane])).toEqual([
      [4, 'live'],
      [2, 'backfill'],
      [3, 'backfill'],
    ]);
    return all;
  });
  await t.ledger.acknowledge(
    'mail',
    report(due.slice(1).map((decision) => verified(decision, { carriedBy: 'backfill' }))),
  );
  await eventually(async () => {
    const mail = (await t.ledger.lag()).stores.find(({ store }) => store === 'mail');
    expect(mail).toMatchObject({ backfill: null, outstanding: 1, verified_through: 3 });
  });
  expect(await propagationIn(t.ledger, first.id)).toMatchObject({
    state: 'complete',
    firstCompletedAt: completed,
  });
});

// Found by reading: a receipt would have signed that it was complete the moment it was recorded.
test('when an opt-out was first complete is not known once its acknowledgement is detached', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const { id } = read(await t.ledger.record(intent('ada@example.com'), render));
  const [decision] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(decision!)]));
  await eventually(async () =>
    expect((await t.ledger.lag()).stores[0]).toMatchObject({ verified_through: decision!.seq }),
  );
  await withClient(t.db.superuserUrl, async (client) => {
    await client.query('set session_replication_role = replica');
    await client.query('delete from acknowledgements');
  });
  expect(await propagationIn(t.ledger, id)).toMatchObject({ state: 'complete', firstCompletedAt: undefined });
});

test('a subject whose newest decision is live does not let its back-fill pass before that one is settled', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const old = read(await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render));
  await t.register({ name: 'mail' });
  await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render);
  await eventually(async () => {
    expect((await outstandingOf(t.ledger, 'mail')).map(({ seq, lane }) => [seq, lane])).toEqual([
      [2, 'live'],
    ]);
  });
  expect((await t.ledger.lag()).stores.find(({ store }) => store === 'mail')?.backfill).not.toBeNull();
  expect((await propagationIn(t.ledger, old.id))?.stores.find(({ store }) => store === 'mail')?.state).toBe(
    'pending',
  );
  const [newest] = await outstandingOf(t.ledger, 'mail');
  await t.ledger.acknowledge('mail', report([verified(newest!)]));
  await eventually(async () => {
    expect((await t.ledger.lag()).stores.find(({ store }) => store === 'mail')).toMatchObject({
      backfill: null,
      outstanding: 0,
    });
  });
  expect((await propagationIn(t.ledger, old.id))?.stores.find(({ store }) => store === 'mail')?.state).toBe(
    'superseded',
  );
});

test.each([
  ['pointed elsewhere', { fingerprint: Buffer.from('elsewhere') }],
  ['keyed otherwise', { keyForm: 'sha256' }],
  ['widened', { scopes: ['email', 'sms', 'push', 'email/newsletter'] }],
] as const)('a store %s starts a new generation and is filled again', async (_what, change) => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  const [decision] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(decision!)]));
  await eventually(async () =>
    expect((await t.ledger.lag()).stores).toMatchObject([{ verified_through: 1 }]),
  );
  const [before] = t.ledger.stores();
  await t.register({ name: 'crm', ...change });
  const [now] = t.ledger.stores();
  expect(now?.generation).toBe(2);
  // What it suppresses by itself, of what it is told of from now on, may be newer than what was granted before.
  expect(now!.targetSince > before!.targetSince).toBe(true);
  await eventually(async () => {
    expect(await outstandingOf(t.ledger, 'crm')).toMatchObject([{ seq: 1, lane: 'backfill' }]);
  });
});

// It turned the alarm of a store that was down green, until the next opt-out was late.
test('what was outstanding stays so, with its age, when the store is filled again', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm', lateAfterSeconds: 0.001 });
  await t.ledger.record(intent('ada@example.com'), render);
  await t.ledger.acknowledge(
    'crm',
    report((await outstandingOf(t.ledger, 'crm')).map((one) => verified(one))),
  );
  const lag = async () => (await t.ledger.lag()).stores[0]!;
  await eventually(async () => expect(await lag()).toMatchObject({ status: 'ok', verified_through: 1 }));
  await t.ledger.record(intent('bob@example.com'), render);
  await t.ledger.record(intent('cyd@example.com'), render);
  const [, cyd] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(cyd!, { outcome: 'refused', code: 'NO' })]));
  const late = { status: 'late', outstanding: 2, quarantined: 1 };
  const before = await eventually(async () => {
    const now = await lag();
    expect(now).toMatchObject(late);
    return now.oldest_outstanding_seconds!;
  });

  await refillStore(t.pool, 'crm', 'test', undefined);
  await t.ledger.refresh();
  await eventually(async () => {
    const now = await lag();
    expect(now).toMatchObject({ ...late, backfill: expect.anything() });
    expect(now.oldest_outstanding_seconds).toBeGreaterThan(before);
  });
  await eventually(async () =>
    expect((await outstandingOf(t.ledger, 'crm')).map(({ seq, lane }) => [seq, lane])).toEqual([
      [3, 'live'],
      [2, 'live'],
      [1, 'backfill'],
    ]),
  );
  const held = (await outstandingOf(t.ledger, 'crm')).map((one) => verified(one));
  await t.ledger.acknowledge('crm', report(held, { generation: 2 }));
  await eventually(async () =>
    expect(await lag()).toMatchObject({ status: 'ok', backfill: null, outstanding: 0, verified_through: 3 }),
  );
});

test('while a store is filled nobody knows that nothing is outstanding, and a back-fill that stands still is late', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  await t.register({ name: 'mail', lateAfterSeconds: 60 });
  await t.ledger.acknowledge('mail', report([]));
  const lag = async () => (await t.ledger.lag()).stores.find(({ store }) => store === 'mail');
  expect(await lag()).toMatchObject({
    status: 'backfilling',
    outstanding: 0,
    outstanding_is_at_least: true,
    oldest_outstanding_seconds: null,
    drain_eta_seconds: null,
  });
  await t.pool.query(
    "update stores set backfill_moved_at = backfill_moved_at - interval '61 seconds' where name = 'mail'",
  );
  await eventually(async () =>
    expect(await lag()).toMatchObject({ status: 'late', oldest_outstanding_seconds: expect.any(Number) }),
  );
});

test('a store made narrower, or read again unchanged, keeps its generation', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  await t.register({ name: 'crm' });
  await t.register({ name: 'crm', scopes: ['email'] });
  expect(t.ledger.stores()[0]?.generation).toBe(1);
  expect(await refillStore(t.pool, 'crm', 'asked for', undefined)).toBe(true);
  await t.ledger.refresh();
  expect(t.ledger.stores()[0]?.generation).toBe(2);
});

test('the worker of a paused store, silent by order, does not make the source unknown that others read', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' }, { name: 'mail' });
  await t.ledger.acknowledge('crm', report([]));
  const { worker } = report([]);
  const behind = { ...worker.source, status: 'catching_up', positionAgeSeconds: 7 } as const;
  await t.ledger.acknowledge('mail', report([], { worker: { ...worker, source: behind } }));
  const fallSilent = (name: string) =>
    withClient(t.db.superuserUrl, (client) =>
      client.query(
        `update workers set last_seen_at = last_seen_at - interval '1 hour'
         where store_id = (select id from stores where name = $1)`,
        [name],
      ),
    );
  const expectSource = (source: object) =>
    eventually(async () => expect((await t.ledger.lag()).sources).toMatchObject([source]));
  await expectSource({ status: 'catching_up', position_age_seconds: 7 });
  await fallSilent('mail');
  await expectSource({ status: 'unknown' });

  await changeStore(t.pool, 'mail', 'paused', {}, undefined);
  await expectSource({ kind: 'pgoutput', status: 'ok', position_age_seconds: 0 });

  await changeStore(t.pool, 'crm', 'paused', {}, undefined);
  await fallSilent('crm');
  await expectSource({ kind: 'pgoutput', status: 'unknown', position_age_seconds: null });
});

test('a store that left the file stays due until it is retired', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' }, { name: 'mail' });
  await t.register({ name: 'crm' });
  const { id } = read(await t.ledger.record(intent('ada@example.com'), render));
  const [decision] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(decision!)]));
  expect(await propagationIn(t.ledger, id)).toMatchObject({ state: 'pending', required: 2, confirmed: 1 });
  expect((await t.ledger.lag()).status).toBe('unknown');
  await changeStore(t.pool, 'mail', 'retired', { reason: 'sold' }, undefined);
  const propagation = await propagationIn(t.ledger, id);
  expect(propagation).toMatchObject({ state: 'complete', required: 1 });
  // It was pending until then.
  const { rows } = await t.pool.query<{ at: Date }>(
    "select retired_at as at from stores where name = 'mail'",
  );
  expect(Date.parse(propagation!.firstCompletedAt!)).toBe(new Date(rows[0]!.at).getTime());
});

test('a renamed store is told of no earlier consent: what it kept of us under its old name it does not find', async () => {
  await using t = await freshLedger();
  const fingerprint = Buffer.alloc(32, 1);
  await t.register({ name: 'crm', fingerprint });
  const since = async (name: string): Promise<number> => {
    const { rows } = await t.pool.query<{ at: number }>(
      'select extract(epoch from target_since)::float8 as at from stores where name = $1',
      [name],
    );
    return rows[0]!.at;
  };
  const before = await since('crm');
  await t.register({ name: 'shop', formerly: 'crm', fingerprint });
  expect(await since('shop')).toBeGreaterThan(before);
});

test('renamed stores keep what they were told of, wherever they stand in the file, and though others take their names', async () => {
  await using t = await freshLedger();
  const [old, older, fresh] = [1, 2, 3].map((n) => Buffer.alloc(32, n));
  await t.register({ name: 'crm', fingerprint: old! }, { name: 'shop', fingerprint: older! });
  const ids = async (): Promise<Record<string, { id: number; generation: number }>> => {
    const { rows } = await t.pool.query<{ name: string; id: number; generation: number }>(
      'select name, id::int, generation::int from stores',
    );
    return Object.fromEntries(rows.map(({ name, ...rest }) => [name, rest]));
  };
  const before = await ids();
  await t.register(
    { name: 'crm', fingerprint: fresh! },
    { name: 'shop', formerly: 'crm', fingerprint: old! },
    { name: 'outlet', formerly: 'shop', fingerprint: older! },
  );
  expect(await ids()).toEqual({
    shop: before['crm'],
    outlet: before['shop'],
    crm: { id: expect.any(Number), generation: 1 },
  });
});

test('what a retired store had covered is uncovered in the very answer that no longer counts it', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm', scopes: ['email'] });
  const { id } = read(await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render));
  await changeStore(t.pool, 'crm', 'retired', { reason: 'sold' }, undefined);
  expect(await propagationIn(t.ledger, id)).toMatchObject({ state: 'uncovered', uncovered: ['email'] });
});

test('what no required store covers is uncovered, never complete', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm', scopes: ['email'] }, { name: 'app', scopes: ['push'], required: false });
  const push = read(await t.ledger.record(intent('ada@example.com', { scopes: ['push'] }), render));
  expect(await propagationIn(t.ledger, push.id)).toMatchObject({
    state: 'uncovered',
    required: 0,
    uncovered: ['push'],
  });
  const all = read(await t.ledger.record(intent('bob@example.com'), render));
  expect(await propagationIn(t.ledger, all.id)).toMatchObject({
    state: 'pending',
    required: 1,
    uncovered: ['sms', 'push'],
  });
});

test('lag, acknowledged rows below the mark: however many, are not read', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await withClient(t.db.superuserUrl, async (client) => {
    await client.query(`
      set session_replication_role = replica;
      with d as (
        insert into decisions (id, cause, subject_id, kind, version, suppressed, granted, effective_at, recorded_at)
        select gen_random_uuid(), 'opt_out', gen_random_uuid(), 'email', 1, '{"email":"2026-01-01T00:00:00.000Z"}', '{}', now(), now()
        from generate_series(1, 100000) returning seq)
      insert into acknowledgements (store_id, generation, seq, version, outcome, acknowledged_at, latency_ms, attempts, worker, carried_by)
      select s.id, 1, d.seq, 1, 'verified', now(), 1, 1, 'w', 'stream' from d, stores s;
      update stores set scanned_through = 100000;`);
    await client.query('vacuum analyze');
  });
  await t.ledger.record(intent('ada@example.com'), render);
  expect(await explainLag(t.pool, t.ledger.stores()[0]!)).toBeLessThan(200);
});

// The planner read the whole backlog for each page, and sorted it: with 200,000 outstanding, a catch-up spent most of its time
// there.
test('a page of what is outstanding costs the page, however long the backlog and the list of exceptions', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await withClient(t.db.superuserUrl, (client) =>
    client.query(`
      set session_replication_role = replica;
      insert into decisions (id, cause, subject_id, kind, version, suppressed, granted, effective_at, recorded_at)
        select gen_random_uuid(), 'opt_out', gen_random_uuid(), 'email', 1, '{"email":"2026-01-01T00:00:00.000Z"}', '{}', now(), now()
        from generate_series(1, 30000);
      insert into exceptions (store_id, generation, seq, subject_id, version, speaks_from, kind, attempts, since, next_try_at)
        select s.id, 1, d.seq, d.subject_id, 1, d.seq, 'absent', 1, now(), now() + interval '1 hour'
        from decisions d, stores s where d.seq > 20000;`),
  );
  const store = t.ledger.stores()[0]!;
  // For each decision: its own row, and two look-ups of two or three buffers.
  expect(await explainPage(t.pool, store, 100)).toBeLessThan(100 * 8);
  await withClient(t.db.superuserUrl, (client) => client.query('analyze'));
  expect(await explainPage(t.pool, store, 100)).toBeLessThan(100 * 8);
});

// A report of a thousand was compared with itself, row by row: two thirds of a catch-up.
test('a report costs what is in it, and not the square of that', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const people = 1_000;
  // Everybody was decided twice, and every second one is parked.
  await withClient(t.db.superuserUrl, (client) =>
    client.query(`
      set session_replication_role = replica;
      with people as (select gen_random_uuid() as id from generate_series(1, ${people}))
      insert into decisions (id, cause, subject_id, kind, version, suppressed, granted, effective_at, recorded_at)
        select gen_random_uuid(), 'opt_out', people.id, 'email', version, '{"email":"2026-01-01T00:00:00.000Z"}', '{}', now(), now()
        from generate_series(1, 2) version, people order by version;
      insert into exceptions (store_id, generation, seq, subject_id, version, speaks_from, kind, attempts, since, next_try_at)
        select s.id, 1, d.seq, d.subject_id, 1, d.seq, 'quarantine', 5, now(), now() + interval '1 hour'
        from decisions d, stores s where d.seq <= ${people} and d.seq % 2 = 0;`),
  );
  const store = t.ledger.stores()[0]!;
  const acknowledgements = Array.from({ length: people }, (_, n) => ({
    store_id: store.id,
    generation: 1,
    worker: 'w',
    seq: people + n + 1,
    version: 2,
    outcome: 'verified',
    held: { version: 2, suppressed: ['email'] },
    attempts: 1,
    carried_by: 'stream',
    evidence: {},
  }));
  expect(await explainSettle(t.pool, acknowledgements)).toBeLessThan(people * 10);
  const { rows } = await t.pool.query<{ settled: number; parked: number }>(
    'select (select count(*) from acknowledgements) as settled, (select count(*) from exceptions) as parked',
  );
  expect(rows).toEqual([{ settled: 2 * people, parked: 0 }]);
});

// A canary is decided anew every minute: after a year each of its acknowledgements walked through half a million.
test('while a store is filled, an acknowledgement settles no more than the last thousand decisions of before', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  const { id } = read(await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render));
  await t.ledger.record(intent('bob@example.com'), render);
  await withClient(t.db.superuserUrl, (client) =>
    client.query(`
      set session_replication_role = replica;
      insert into decisions (id, cause, subject_id, kind, version, suppressed, granted, effective_at, recorded_at)
        select gen_random_uuid(), 'reissue', subject_id, kind, version + n, suppressed, granted, effective_at, recorded_at
        from decisions, generate_series(1, 2500) n where seq = 1 order by n;
      update subjects set version = 2501 where id = (select subject_id from decisions where seq = 1);
      update stores set scanned_through = 2502;`),
  );
  await refillStore(t.pool, 'crm', 'test', undefined);
  await t.ledger.refresh();
  const acknowledge = (one: Outstanding, fields = {}) =>
    t.ledger.acknowledge('crm', report([verified(one, fields)], { generation: 2 }));
  const due = await eventually(async () => {
    const all = await outstandingOf(t.ledger, 'crm');
    expect(all.map(({ seq }) => seq)).toEqual([2502, 2]);
    return all;
  });
  await acknowledge(due[0]!);
  expect((await settled(t)).map(([seq]) => seq)).toEqual(Array.from({ length: 1_001 }, (_, n) => 1_502 + n));

  // What has no row does not count as outstanding.
  await t.ledger.record(intent('ada@example.com', { scopes: ['sms'] }), render);
  const live = (await outstandingOf(t.ledger, 'crm')).find(({ lane }) => lane === 'live')!;
  await acknowledge(live, { outcome: 'refused', code: 'NO' });
  expect((await t.ledger.findParked('crm', live.seq))?.speaksFrom).toBe(live.seq);
  await acknowledge(live, { attempts: 2 });

  await acknowledge(due[1]!);
  await eventually(async () =>
    expect((await t.ledger.lag()).stores[0]).toMatchObject({
      backfill: null,
      outstanding: 0,
      verified_through: live.seq,
    }),
  );
  expect(await propagationIn(t.ledger, id)).toMatchObject({ state: 'complete', confirmed: 1 });
});
