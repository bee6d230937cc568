// Erasing a person's address, over the real ledger: who was erased stays suppressed and cannot be named to any store.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { eventually } from '../../harness/eventually.ts';
import { outstandingOf, report, verified } from '../../harness/ledger.ts';
import { serveToClients } from '../serving.ts';
import type { ServedToClients } from '../serving.ts';

let api: ServedToClients;
beforeEach(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
});

const ADA = { email: 'ada@example.com' };
const post = async (path: string, body: object) => await api.send('POST', path, { key: api.key, body });
const optOut = async (...identifiers: object[]) =>
  (await post('/v2/opt-outs', { identifiers, scopes: ['email'] })).json;
const erase = (...identifiers: object[]) => post('/v2/subjects/erasure', { identifiers });
const read = async (id: string) => (await api.send('GET', `/v2/opt-outs/${id}`, { key: api.key })).json;
const propagation = async (id: string) =>
  (await api.send('GET', `/v2/opt-outs/${id}/propagation`, { key: api.key })).json;
const lagOf = async (name: string) => {
  const { json } = await api.send('GET', '/v1/propagation-lag', { key: api.key });
  return json.stores.find(({ store }: { store: string }) => store === name);
};

/** The store takes all that it is given, as its worker says. */
async function confirm(name = 'crm', fields: object = {}): Promise<void> {
  const given = await outstandingOf(api.t.ledger, name);
  await api.t.ledger.acknowledge(name, report(given.map((one) => verified(one, fields))));
}

const sealedRows = async (table: string, ...columns: string[]): Promise<number> =>
  (
    await api.t.pool.query<{ n: number }>(
      `select count(*) as n from ${table} where coalesce(${columns.join(', ')}) is not null`,
    )
  ).rows[0]!.n;

describe('once every store holds the opt-out', () => {
  test('the address and all free words are gone, and the person stays suppressed', async () => {
    await post('/v1/opt-outs', { subject: ADA, scope: { sms: true }, note: 'Ada of Example' });
    const evidence = { method: 'phone', statement: 'this is ada@example.com: stop' };
    const { json } = await api.send('POST', '/v2/opt-outs', {
      key: api.key,
      headers: { 'idempotency-key': 'ticket-of-ada@example.com' },
      body: { identifiers: [ADA], scopes: ['email'], evidence },
    });
    await confirm();
    const suppressed = json.identifiers[0].suppressed;

    const answer = await erase({ email: 'ADA@example.com' });
    expect([answer.status, answer.json]).toEqual([
      200,
      {
        object: 'erasure',
        identifiers: [{ kind: 'email', masked: 'a••@e••.com', suppressed, outcome: 'erased', absent: [] }],
      },
    ]);
    expect(await sealedRows('subjects', 'sealed')).toBe(0);
    expect(await sealedRows('opt_outs', 'note', 'evidence', 'idempotency_key')).toBe(0);
    expect(await read(json.id)).toMatchObject({
      in_force: true,
      identifiers: [{ kind: 'email', masked: null, suppressed }],
      idempotency_key: `auto_${json.id}`,
      evidence: null,
      propagation: { state: 'complete' },
    });
    const { json: checked } = await post('/v2/checks', { items: [{ identifiers: [ADA], scope: 'email' }] });
    expect(checked.items[0]).toMatchObject({ allowed: false, reason: 'opted_out' });
    const { rows } = await api.t.pool.query(
      "select client, resource = (select id::text from subjects) as is_it, details from audit_log where action = 'subject.erased'",
    );
    expect(rows).toEqual([{ client: 'shop', is_it: true, details: {} }]);
  });

  // Found by reading: the key of a grant stayed, sealed, and was answered for ever.
  test('a consent keeps its evidence, and not the name that its client gave it', async () => {
    await optOut(ADA);
    const { json } = await api.send('POST', '/v2/grants', {
      key: api.key,
      headers: { 'idempotency-key': 'consent-of-ada@example.com' },
      body: {
        identifier: ADA,
        scopes: ['email'],
        granted_at: new Date().toISOString(),
        evidence: { method: 'web_form', statement: 'yes, write to me', source: '/preferences' },
      },
    });
    const readGrant = async () => (await api.send('GET', `/v2/grants/${json.id}`, { key: api.key })).json;
    expect(await readGrant()).toMatchObject({ idempotency_key: 'consent-of-ada@example.com' });
    await confirm();

    expect((await erase(ADA)).status).toBe(200);

    expect(await sealedRows('grants', 'idempotency_key')).toBe(0);
    expect(await readGrant()).toMatchObject({
      idempotency_key: `auto_${json.id}`,
      evidence: { statement: 'yes, write to me' },
    });
  });

  test('a second time there is nothing to erase, nor of somebody unknown', async () => {
    await optOut(ADA);
    await confirm();
    await erase(ADA);
    const { status, json } = await erase({ email: 'grace@example.com' }, ADA);
    expect(status).toBe(200);
    expect(json.identifiers).toMatchObject([
      { masked: 'g••@e••.com', suppressed: [], outcome: 'unknown' },
      { masked: 'a••@e••.com', suppressed: [{ scope: 'email' }], outcome: 'already_erased' },
    ]);
    const { rows } = await api.t.pool.query("select from audit_log where action = 'subject.erased'");
    expect(rows).toHaveLength(1);
  });
});

describe('as long as a store does not hold the opt-out', () => {
  test('nobody is erased, whichever of the identifiers it is, and the answer says which store', async () => {
    await optOut(ADA);
    await confirm();
    const phone = { phone: '+442071838750' };
    await optOut(phone);
    const { status, json } = await erase(ADA, phone);
    expect([status, json.code, json.retryable]).toEqual([409, 'erasure-too-early', true]);
    expect(json.errors).toEqual([{ pointer: '/identifiers/1', detail: 'crm has not confirmed it yet' }]);
    expect(await sealedRows('subjects', 'sealed')).toBe(2);
    await confirm();
    expect((await erase(ADA, phone)).status).toBe(200);
  });

  test.each([
    ['is optional', () => api.t.register({ name: 'crm' }, { name: 'late', required: false })],
    [
      'refuses it',
      async () => {
        await api.t.register({ name: 'crm' }, { name: 'late' });
        await confirm('late', { outcome: 'refused', code: 'NOT_VALID' });
      },
    ],
    [
      'is paused',
      async () => {
        await api.t.register({ name: 'crm' }, { name: 'late' });
        await api.t.pool.query("update stores set paused_at = clock_timestamp() where name = 'late'");
      },
    ],
  ])('nobody is erased, even if the store %s, until it is retired', async (_, prepare) => {
    await optOut(ADA);
    await confirm();
    await prepare();
    expect((await erase(ADA)).json.errors).toEqual([
      { pointer: '/identifiers/0', detail: 'late has not confirmed it yet' },
    ]);
    await api.t.pool.query("update stores set retired_at = clock_timestamp() where name = 'late'");
    await api.t.ledger.refresh();
    expect((await erase(ADA)).status).toBe(200);
  });
});

describe('a store that cannot be told any more', () => {
  beforeEach(async () => {
    await optOut(ADA);
    await confirm();
    await erase(ADA);
    await api.t.register({ name: 'crm' }, { name: 'added' });
  });

  test('gets no address, not even the copy that travelled, and counts the person as absent, not as late', async () => {
    // A back-fill waits for the write transactions of others on the server.
    const given = await eventually(async () => {
      const all = await outstandingOf(api.t.ledger, 'added');
      expect(all).toMatchObject([{ sealed: undefined }]);
      return all;
    });
    const refused = verified(given[0]!, { outcome: 'refused', code: 'ADDRESS_ERASED' });
    await api.t.ledger.acknowledge('added', report([refused]));
    expect(await lagOf('added')).toMatchObject({ outstanding: 0, quarantined: 0, absent: 1 });
    const { id } = (await post('/v2/subjects/lookup', { identifier: ADA })).json.opt_outs[0];
    expect((await propagation(id)).stores).toMatchObject([
      { store: 'added', state: 'absent', decisions: [{ reason: 'ADDRESS_ERASED' }] },
      { store: 'crm', state: 'verified' },
    ]);
    await api.send('POST', '/v1/stores/added/quarantine/retry', { key: api.key, body: { all: true } });
    expect(await outstandingOf(api.t.ledger, 'added')).toMatchObject([{ sealed: undefined }]);
  });

  test('is told by whoever opts out again, for the address was given again', async () => {
    const again = await optOut(ADA);
    expect(again.outcome).toBe('recorded');
    const given = await outstandingOf(api.t.ledger, 'added');
    expect(given.filter(({ sealed }) => sealed !== undefined)).toMatchObject([{ version: 2 }]);
    expect((await read(again.id)).identifiers).toMatchObject([{ masked: 'a••@e••.com' }]);
    // Now there is nothing new in it.
    expect((await optOut(ADA)).outcome).toBe('already_opted_out');
  });

  test('is not believed to have nobody there if the address is known', async () => {
    await optOut({ email: 'bob@example.com' });
    const bob = (await outstandingOf(api.t.ledger, 'added')).filter(({ sealed }) => sealed !== undefined);
    const refused = verified(bob[0]!, { outcome: 'refused', code: 'ADDRESS_ERASED' });
    await api.t.ledger.acknowledge('added', report([refused]));
    expect(await lagOf('added')).toMatchObject({ quarantined: 1, absent: 0 });
  });
});

test('whom a store did not know is not named to it any more', async () => {
  await optOut(ADA);
  await confirm('crm', { outcome: 'absent' });
  // Found by reading: nothing said that this store cannot be told any more, should it have her tomorrow.
  expect((await erase(ADA)).json.identifiers).toMatchObject([{ outcome: 'erased', absent: ['crm'] }]);
  const { rows } = await api.t.pool.query("select details from audit_log where action = 'subject.erased'");
  expect(rows).toEqual([{ details: { absent: ['crm'] } }]);
  expect((await erase(ADA)).json.identifiers).toMatchObject([{ outcome: 'already_erased', absent: [] }]);
  await api.send('POST', '/v1/stores/crm/quarantine/retry', { key: api.key, body: { all: true } });
  const given = await outstandingOf(api.t.ledger, 'crm');
  expect(given).toMatchObject([{ sealed: undefined }]);
  const refused = verified(given[0]!, { outcome: 'refused', code: 'ADDRESS_ERASED' });
  await api.t.ledger.acknowledge('crm', report([refused]));
  expect(await lagOf('crm')).toMatchObject({ outstanding: 0, quarantined: 0, absent: 1 });
});

test("what an opt-out says cannot be rewritten, even with the password of the API's role", async () => {
  await post('/v1/opt-outs', { subject: ADA, note: 'Ada of Example', idempotency_key: 'one' });
  await post('/v2/opt-outs', { identifiers: [ADA], scopes: ['analytics'], evidence: { method: 'phone' } });
  for (const column of ['note', 'evidence', 'idempotency_key'])
    await expect(api.t.pool.query(`update opt_outs set ${column} = 'other'`)).rejects.toMatchObject({
      code: '23514',
    });
});

test('a canary is nobody who could be erased', async () => {
  await optOut(ADA);
  await confirm();
  await api.t.pool.query(
    "insert into canaries (kind, subject_id, every_seconds, issued_at) select 'email', id, 60, now() from subjects",
  );
  expect((await erase(ADA)).json.identifiers).toMatchObject([{ outcome: 'unknown' }]);
  expect(await sealedRows('subjects', 'sealed')).toBe(1);
});
