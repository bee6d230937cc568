// Prototype pollution: members named like what every object has. In a body, in a query and in a token they are like any other
// unknown name: refused, never merged into anything, never found where nobody put them.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { problemOf } from '../harness/http.ts';
import { countRows } from './unchanged.ts';

let api: ServedToClients;
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const NAMES = ['__proto__', 'constructor', 'prototype', 'toString', 'hasOwnProperty', '__defineGetter__'];
const VALUES = ['{"email":true,"sms":true,"scopes":["opt_outs:read_all"]}', '{}', '[]', 'true', '"email"'];

/** As text: an object literal would set the prototype instead of naming a member. */
const member = (name: string, value: string): string => `${JSON.stringify(name)}:${value}`;
const people = '"subject":{"email":"ada@example.com"}';

/** A body that is good except for one member, at every place where there is an object. */
const PLACES: Record<string, { path: string; key: 'client' | 'worker'; body: (evil: string) => string }> = {
  'an opt-out': { path: '/v1/opt-outs', key: 'client', body: (evil) => `{${people},${evil}}` },
  'a subject': {
    path: '/v1/opt-outs',
    key: 'client',
    body: (evil) => `{"subject":{"email":"ada@example.com",${evil}}}`,
  },
  'a subject that has nothing else': {
    path: '/v1/opt-outs',
    key: 'client',
    body: (evil) => `{"subject":{${evil}}}`,
  },
  'a scope': {
    path: '/v1/opt-outs',
    key: 'client',
    body: (evil) => `{${people},"scope":{"email":true,${evil}}}`,
  },
  'a look-up': { path: '/v1/subjects/lookup', key: 'client', body: (evil) => `{${people},${evil}}` },
  checks: { path: '/v1/checks', key: 'client', body: (evil) => `{"items":[],${evil}}` },
  'a retry': {
    path: '/v1/stores/crm/quarantine/retry',
    key: 'client',
    body: (evil) => `{"all":true,${evil}}`,
  },
  'a report': { path: '/v1/acknowledgements', key: 'worker', body: (evil) => report(`,${evil}`) },
  "a worker's source": {
    path: '/v1/acknowledgements',
    key: 'worker',
    body: (evil) => report('', `,${evil}`),
  },
};
const report = (evil: string, inSource = ''): string =>
  `{"store":"crm","generation":1,"worker":{"id":"w","incarnation":"i","source":{"kind":"http","status":"ok","parked":0${inSource}}},"acknowledgements":[]${evil}}`;

const post = async (place: string, evil: string) => {
  const { path, key, body } = PLACES[place]!;
  return await api.send('POST', path, {
    key: key === 'client' ? api.key : await api.workerKey('crm'),
    body: body(evil),
  });
};

/** Nothing that anybody sends may change what every object of this process has. */
const ofEveryObject = (): PropertyKey[] => [
  ...Reflect.ownKeys(Object.prototype),
  ...Reflect.ownKeys(Array.prototype),
  ...Reflect.ownKeys(Function.prototype),
];
const before = ofEveryObject();
afterEach(() => {
  expect(ofEveryObject()).toEqual(before);
  expect(({} as { email?: unknown }).email).toBeUndefined();
});

describe('a member of that name is refused', () => {
  test.each(Object.keys(PLACES))('in %s', async (place) => {
    const rows = await countRows(api.t);
    for (const name of NAMES)
      for (const value of VALUES) {
        const answer = await post(place, member(name, value));
        expect([name, value, ...problemOf(answer).slice(0, 2)]).toEqual([name, value, 422, 'invalid-value']);
      }
    // A worker's key is audited when it is made.
    const { audit_log: _, ...others } = rows;
    expect(await countRows(api.t)).toMatchObject(others);
  });

  test('a member that stands twice as much as any other', async () => {
    for (const name of NAMES)
      expect(problemOf(await post('an opt-out', `${member(name, '1')},${member(name, '2')}`))).toEqual([
        400,
        'malformed-json',
      ]);
  });

  test.each(['/v1/opt-outs', '/v1/propagation-lag', '/v1/stores/crm/gate', '/v1/stores/crm/quarantine'])(
    'in the query of %s',
    async (path) => {
      for (const name of NAMES)
        for (const query of [`${name}=1`, `${name}[limit]=1`, `${name}.limit=1`])
          expect([
            query,
            ...problemOf(await api.send('GET', `${path}?${query}`, { key: api.key })).slice(0, 2),
          ]).toEqual([query, 422, 'invalid-value']);
    },
  );
});

describe('an item of checks with such a member', () => {
  test.each([
    ['beside its own', (evil: string) => `{${people},"channel":"email",${evil}}`],
    ['in its subject', (evil: string) => `{"subject":{"email":"ada@example.com",${evil}},"channel":"email"}`],
    ['as its subject', (evil: string) => `{"subject":{${evil}},"channel":"email"}`],
    ['in place of what it needs', (evil: string) => `{${evil}}`],
  ])('%s is not sendable', async (_, item) => {
    for (const name of NAMES)
      for (const value of [...VALUES, '{"subject":{"email":"ada@example.com"},"channel":"email"}']) {
        const { json } = await api.send('POST', '/v1/checks', {
          key: api.key,
          body: `{"items":[${item(member(name, value))}]}`,
        });
        expect(json.items).toEqual([
          { can_send: false, reason: 'invalid_item', opt_out_id: null, effective_at: null },
        ]);
      }
  });
});

describe('a value of that name is text like any other', () => {
  test.each(NAMES)('%s as a channel, a topic, a scope, a reason and a store', async (name) => {
    const check = async (rest: object) =>
      (
        await api.send('POST', '/v1/checks', {
          key: api.key,
          body: { items: [{ subject: { email: 'ada@example.com' }, ...rest }] },
        })
      ).json.items[0];
    expect(await check({ channel: name })).toMatchObject({ can_send: false, reason: 'invalid_item' });
    expect((await check({ channel: 'email', topic: name.toLowerCase() })).opt_out_id).toBeNull();
    expect((await post('an opt-out', member('reason', JSON.stringify(name)))).status).toBe(422);
    expect((await api.send('GET', `/v1/stores/${name}/gate`, { key: api.key })).status).toBe(404);
    expect((await api.send('GET', `/v1/opt-outs?store=${name}`, { key: api.key })).json.opt_outs).toEqual([]);
  });

  test.each(NAMES)('%s as a person is that person and nobody else', async (name) => {
    const made = await api.send('POST', '/v1/opt-outs', {
      key: api.key,
      body: { subject: { person_id: name }, idempotency_key: name },
    });
    expect([made.status, made.json.idempotency_key]).toEqual([201, name]);
    const state = async (person: string) =>
      (
        await api.send('POST', '/v1/subjects/lookup', {
          key: api.key,
          body: { subject: { person_id: person } },
        })
      ).json.scope.email;
    expect([await state(name), await state(`${name}.`)]).toEqual([true, false]);
  });
});
