// Worker keys used on another store, and for what workers have no business with. A thief of one can fail to carry out that one
// store's opt-outs, and be seen doing so; the thief cannot speak for another store, nor make the ledger believe what it did not
// see.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { operationsOf, VERSIONS } from '../../api/versions.ts';
import { ADMINISTRATOR_SCOPES } from '../../ledger/contract/api-keys.ts';
import type { Outstanding } from '../../ledger/contract/outstanding.ts';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { problemOf } from '../harness/http.ts';
import { outstandingOf } from '../harness/ledger.ts';

let api: ServedToClients;
let crm: string;
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register(
    { name: 'crm', scopes: ['email'], accepts: ['email'] },
    { name: 'mail', scopes: ['email', 'sms'] },
  );
  crm = await api.workerKey('crm');
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

let people = 0;
let optOut: string;
/** What each of the two stores must hold of somebody new. */
let due: { crm: Outstanding; mail: Outstanding };
beforeEach(async () => {
  const subject = { email: `person${(people += 1)}@example.com` };
  optOut = (await api.send('POST', '/v1/opt-outs', { key: api.key, body: { subject } })).json.id;
  const of = async (store: string) =>
    (await outstandingOf(api.t.ledger, store)).find((one) => one.optOutId === optOut)!;
  due = { crm: await of('crm'), mail: await of('mail') };
});

const acknowledgement = ({ seq, version }: Outstanding, fields: object = {}) => ({
  seq,
  version,
  outcome: 'verified',
  held: { version, suppressed: ['email', 'sms', 'push'] },
  carried_by: 'stream',
  attempts: 1,
  ...fields,
});
const report = async (key: string, store: string, acknowledgements: object[], fields: object = {}) =>
  await api.send('POST', '/v1/acknowledgements', {
    key,
    body: {
      store,
      generation: 1,
      worker: { id: 'w', incarnation: 'i', source: { kind: 'http', status: 'ok', parked: 0 } },
      acknowledgements,
      ...fields,
    },
  });
const confirmed = async (): Promise<string[]> => {
  const { json } = await api.send('GET', `/v1/opt-outs/${optOut}/propagation`, { key: api.key });
  return json.stores
    .filter(({ state }: { state: string }) => state !== 'pending')
    .map(({ store }: { store: string }) => store);
};

describe('at another store', () => {
  test('it acknowledges nothing, reads nothing and compares nothing', async () => {
    const run = await api.send('POST', '/v1/stores/mail/reconciliation', { key: api.key });
    expect(run.status).toBe(202);
    const compared = {
      run: run.json.id,
      generation: 1,
      after: '00000000-0000-0000-0000-000000000000',
      through: 'ffffffff-ffff-ffff-ffff-ffffffffffff',
      last: true,
      compared: 1,
      own: 0,
      unread: 0,
      differences: [],
    };
    const answers = [
      await report(crm, 'mail', [acknowledgement(due.mail)]),
      await api.send('GET', '/v1/stores/mail/outstanding', { key: crm }),
      await api.send('GET', '/v1/stores/mail/canary', { key: crm }),
      await api.send('GET', `/v1/stores/mail/subjects/${due.mail.subjectId}`, { key: crm }),
      await api.send('GET', '/v1/stores/mail/reconciliation/page?worker=w', { key: crm }),
      await api.send('POST', '/v1/stores/mail/reconciliation/page', { key: crm, body: compared }),
    ];
    for (const answer of answers) expect(problemOf(answer)).toEqual([404, 'not-found']);
    expect(await confirmed()).toEqual([]);
  });

  test.each(['crm%00', 'CRM', 'crm ', ' crm', 'crm/', '%63rm', 'mail%2f..%2fcrm', 'crm%2f..%2fmail'])(
    'another spelling of its own name opens no other: %s',
    async (name) => {
      const answer = await api.send('GET', `/v1/stores/${name}/outstanding`, { key: crm });
      // The router decodes percent signs once: a name that is the same after that is the same store.
      if (answer.status === 200) expect(decodeURIComponent(name)).toBe('crm');
      else expect(answer.status).toBe(404);
    },
  );

  test('a report that names its own store speaks for that store alone, whatever it lists', async () => {
    const { json } = await report(crm, 'crm', [acknowledgement(due.mail), acknowledgement(due.crm)]);
    expect(json.accepted).toBe(1);
    expect(await confirmed()).toEqual(['crm']);
  });
});

describe('at its own store', () => {
  test('it can acknowledge nothing that is not due there', async () => {
    const { json: made } = await api.send('POST', '/v1/opt-outs', {
      key: api.key,
      body: { subject: { phone: '+442071838750' } },
    });
    const foreign = (await outstandingOf(api.t.ledger, 'mail')).find((one) => one.optOutId === made.id)!;
    const { json } = await report(crm, 'crm', [acknowledgement(foreign)]);
    expect(json).toEqual({ accepted: 0, duplicate: 0, rejected: [{ seq: foreign.seq, code: 'not_due' }] });
  });

  test.each<[string, (decision: Outstanding) => object, string]>([
    ['what nobody decided', ({ seq }) => ({ seq: seq + 1_000_000 }), 'unknown_seq'],
    ['another version', ({ version }) => ({ version: version + 1 }), 'version_mismatch'],
    ['that it holds nothing', ({ version }) => ({ held: { version, suppressed: [] } }), 'not_verifiable'],
    [
      'that it holds something else',
      ({ version }) => ({ held: { version, suppressed: ['sms'] } }),
      'not_verifiable',
    ],
    [
      'that it cannot be read',
      ({ version }) => ({ outcome: 'applied', held: { version, suppressed: ['email'] } }),
      'not_verifiable',
    ],
  ])('it is not believed: %s', async (_, wrong, code) => {
    const one = { ...acknowledgement(due.crm), ...wrong(due.crm) };
    const { json } = await report(crm, 'crm', [one]);
    expect(json).toEqual({ accepted: 0, duplicate: 0, rejected: [{ seq: one.seq, code }] });
    expect(await confirmed()).toEqual([]);
  });

  test('it has nobody decided again without end by saying that its store is ahead, however many say so at once', async () => {
    const decisions = async (): Promise<number> =>
      (await api.t.pool.query('select from decisions where subject_id = $1', [due.crm.subjectId])).rowCount!;
    const before = await decisions();
    for (let n = 1; n <= 10; n += 1)
      await Promise.all(
        Array.from({ length: 5 }, (_, m) => {
          const held = { version: 1_000 * n + m, suppressed: ['email', 'sms', 'push'] };
          return report(crm, 'crm', [{ ...acknowledgement(due.crm), held }]);
        }),
      );
    expect(await decisions()).toBe(before + 3);
    const { json } = await api.send('GET', `/v1/opt-outs/${optOut}/propagation`, { key: api.key });
    expect(json.stores.find(({ store }: { store: string }) => store === 'crm')).toMatchObject({
      state: 'quarantined',
      reason: 'AHEAD_OF_LEDGER',
    });
    expect(json.state).toBe('pending');
  });

  test('it is not believed of another generation', async () => {
    for (const generation of [2, 7, 1_000_000]) {
      const { json } = await report(crm, 'crm', [acknowledgement(due.crm)], { generation });
      expect(json).toMatchObject({ accepted: 0, rejected: [{ seq: due.crm.seq, code: 'old_generation' }] });
    }
    expect(await confirmed()).toEqual([]);
  });
});

describe('for what is not its business', () => {
  const OTHERS = Object.keys(VERSIONS)
    .flatMap(operationsOf)
    .filter(({ scopes }) => !scopes.includes('acknowledgements:write'));

  test.each(OTHERS.map(({ method, path }) => [method.toUpperCase() as 'GET' | 'POST', path] as const))(
    '%s %s is refused to a worker',
    async (method, path) => {
      const body = method === 'POST' ? {} : undefined;
      const to = path.replace(':name', 'crm').replace(':seq', '1').replace(/:\w+/, optOut);
      expect(problemOf(await api.send(method, to, { key: crm, body }))).toEqual([403, 'missing-scope']);
    },
  );

  test('and what is a worker’s is refused to every other key, the administrator’s included', async () => {
    const { token } = await api.makeKey({ client: 'administrator', scopes: ADMINISTRATOR_SCOPES });
    for (const { method, path } of operationsOf('v1').filter(({ scopes }) =>
      scopes.includes('acknowledgements:write'),
    )) {
      const to = path.replace(':name', 'crm').replace(/:\w+/, due.crm.subjectId);
      const body = method === 'post' ? {} : undefined;
      const answer = await api.send(method === 'post' ? 'POST' : 'GET', to, { key: token, body });
      expect([path, ...problemOf(answer)]).toEqual([path, 403, 'missing-scope']);
    }
  });
});

// It stayed with the name: a store that was called so next was spoken for by whoever carried to the one before.
test('where its store is renamed it goes with it, and not to whichever has the name next', async () => {
  const fingerprint = Buffer.from('shop');
  await api.t.register({ name: 'shop', fingerprint });
  const key = await api.workerKey('shop');
  await api.t.register({ name: 'webshop', formerly: 'shop', fingerprint }, { name: 'shop' });
  const ask = async (store: string) =>
    (await api.send('GET', `/v1/stores/${store}/outstanding`, { key })).status;
  expect([await ask('webshop'), await ask('shop')]).toEqual([200, 404]);
});
