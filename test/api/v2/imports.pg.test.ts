// A file of opt-outs from its upload to the ledger. What a file may hold to do harm is in test/penetration/import-bombs.pg.test.ts.
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { readAudit } from '../../../ledger/audit.ts';
import { eventually } from '../../harness/eventually.ts';
import { problemOf } from '../../harness/http.ts';
import { freshLedger, grant, intent, render, subject } from '../../harness/ledger.ts';
import type { TestLedger } from '../../harness/ledger.ts';
import { awayFromMidnight } from '../../harness/midnight.ts';
import type { Scope } from '../../../suppression/scope.ts';
import type { Subject } from '../../../suppression/subject.ts';
import type { SubjectKind } from '../../../suppression/subject-kind.ts';
import { limitKey, rotateKey } from '../../../ledger/api-keys.ts';
import { csvOf, serveImports } from './serving-imports.ts';
import type { ServedImports } from './serving-imports.ts';

const decisionsOf = async (t: TestLedger): Promise<number> =>
  (await t.pool.query('select from decisions')).rowCount ?? 0;

const suppressedOf = async (t: TestLedger, who: string, kind: SubjectKind = 'email'): Promise<unknown> => {
  const { state } = await t.ledger.lookupSubject(subject(who, kind));
  return Object.fromEntries(
    Object.entries(state.suppressed).map(([scope, held]) => [scope, held.first_effective_at]),
  );
};

let api: ServedImports;
beforeAll(async () => {
  api = await serveImports({ approveAboveRows: 5_000 });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

describe('a file', () => {
  const AT = '2026-01-02T03:04:05.000Z';
  const AS_IT_SAYS = [
    [
      'CSV',
      'text/csv',
      'email,phone,scopes,effective_at,reason\n' +
        'Ada@Example.com,+41791234567,email;sms,2026-01-02T04:04:05+01:00,complaint\n' +
        'bob@example.com,,,,\n' +
        ',079 123 45 68,sms/offers analytics,2026-01-02T03:04:05Z,\n',
    ],
    [
      'NDJSON',
      'application/x-ndjson; charset=utf-8',
      '{"email":"Ada@Example.com","phone":"+41791234567","scopes":["email","sms"],"effective_at":"2026-01-02T04:04:05+01:00","reason":"complaint"}\n' +
        '{"email":"bob@example.com","phone":null}\r\n\n' +
        '{"phone":"079 123 45 68","scopes":"sms/offers analytics","effective_at":"2026-01-02T03:04:05Z"}',
    ],
  ] as const;

  test.each(AS_IT_SAYS)('of %s is recorded row by row as it says', async (_name, type, file) => {
    await using its = await serveImports();
    const ended = await its.import(file, 'scopes=email%20push&reason=other', type);

    expect(ended).toMatchObject({
      state: 'done',
      rows: { total: 3, done: 3 },
      counts: { recorded: 3, already: 0, invalid: 0 },
      scopes: ['email', 'push'],
      reason: 'other',
    });
    expect(await suppressedOf(its.t, 'ada@example.com')).toEqual({ email: AT, sms: AT });
    expect(await suppressedOf(its.t, '+41791234567', 'phone')).toEqual({ email: AT, sms: AT });
    expect(await suppressedOf(its.t, 'bob@example.com')).toEqual({
      email: ended.created_at,
      push: ended.created_at,
    });
    expect(await suppressedOf(its.t, '+41791234568', 'phone')).toEqual({ 'sms/offers': AT, analytics: AT });
    // One opt-out per row, whose identifiers are one person's, and a decision for each of them.
    const { rows } = await its.t.pool.query(
      `select o.reason, o.client, o.import_id, o.effective_at_stated as stated, count(*) as subjects
       from opt_outs o join opt_out_subjects b on b.opt_out_id = o.id group by o.id order by o.reason, stated`,
    );
    expect(rows).toEqual([
      { reason: 'complaint', client: 'shop', import_id: ended.id, stated: true, subjects: 2 },
      { reason: 'other', client: 'shop', import_id: ended.id, stated: false, subjects: 1 },
      { reason: 'other', client: 'shop', import_id: ended.id, stated: true, subjects: 1 },
    ]);
    expect(await decisionsOf(its.t)).toBe(4);
  });

  test('is read back by its client as any other opt-out is', async () => {
    const who = `${randomUUID()}@example.com`;
    await api.import(`email\n${who}\n`);
    const lookedUp = await api.send('POST', '/v1/subjects/lookup', {
      key: api.key,
      body: { subject: { email: who } },
    });
    expect(lookedUp.json.scope).toEqual({ email: true, sms: false, push: false });
    const [{ id }] = lookedUp.json.opt_outs;
    const optOut = await api.send('GET', `/v1/opt-outs/${id}`, { key: api.key });
    expect(optOut.json).toMatchObject({ in_force: true, idempotency_key: `auto_${id}` });
  });

  test('may begin with a byte order mark, end its lines in any way, and quote what it likes', async () => {
    const [one, two, three, four] = Array.from({ length: 4 }, () => randomUUID());
    for (const [file, people] of [
      [`\ufeffemail,person_id\r\n"${one}@example.com","x ""${one}"", and\ry"\r\n\r\n`, 1],
      [`email\r${two}@example.com\r${three}@example.com`, 2],
      [`\ufeff{"email":"${four}@example.com"}\r\n`, 1],
    ] as const) {
      const type = file.includes('{') ? 'application/x-ndjson' : 'text/csv';
      const { counts, rows } = await api.import(file, 'scopes=email', type);
      // A person id has no line ends.
      expect([rows.total, counts.recorded + counts.invalid]).toEqual([people, people]);
    }
    for (const who of [two, three, four])
      expect(Object.keys((await suppressedOf(api.t, `${who}@example.com`)) as object)).toEqual(['email']);
  });

  test('of no rows is done', async () => {
    expect(await api.import('email,phone\n')).toMatchObject({
      state: 'done',
      rows: { total: 0, done: 0 },
      counts: { recorded: 0, already: 0, invalid: 0 },
    });
  });

  test('is taken by the ledger in the same way as the same rows one by one', async () => {
    await using singly = await freshLedger();
    const kinds = ['email', 'phone', 'push_token', 'person_id'] as const;
    const who = fc.record({ kind: fc.constantFrom(...kinds), n: fc.integer({ min: 0, max: 2 }) });
    const row = fc.record({
      people: fc.uniqueArray(who, { minLength: 1, maxLength: 3, selector: ({ kind }) => kind }),
      scopes: fc.subarray<Scope>(['email', 'sms', 'email/news', 'profiling'], { minLength: 1 }),
      effectiveAt: fc.option(
        fc.constantFrom('2026-01-01T00:00:00.000Z', '2026-02-01T00:00:00.000Z', '2999-01-01T00:00:00.000Z'),
        { nil: undefined },
      ),
    });
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(row, { minLength: 1, maxLength: 12 }), async (rows) => {
        run += 1;
        const value = ({ kind, n }: { kind: SubjectKind; n: number }): string =>
          kind === 'email'
            ? `p${n}@run${run}.example.com`
            : kind === 'phone'
              ? `+4179123${run + 100}${n}`
              : `${kind} ${run} ${n}`;
        const outcomes: string[] = [];
        for (const { people, scopes, effectiveAt } of rows) {
          const subjects = people.map((one) => subject(value(one), one.kind));
          outcomes.push(
            await singly.ledger.record(intent(subjects[0]!, { subjects, scopes, effectiveAt }), render).then(
              ({ body }) => (JSON.parse(body) as { outcome: string }).outcome,
              () => 'invalid',
            ),
          );
        }
        const file = rows.map(({ people, scopes, effectiveAt }) =>
          JSON.stringify({
            ...Object.fromEntries(people.map((one) => [one.kind, value(one)])),
            scopes,
            effective_at: effectiveAt,
          }),
        );
        const { counts } = await api.import(file.join('\n'), '', 'application/x-ndjson');

        const count = (what: RegExp): number => outcomes.filter((outcome) => what.test(outcome)).length;
        expect(counts).toEqual({
          recorded: count(/^recorded/),
          already: count(/^already/),
          invalid: count(/^invalid/),
        });
        for (const kind of kinds) {
          for (const n of [0, 1, 2]) {
            const of = subject(value({ kind, n }), kind);
            expect(await historyOf(api.t, of)).toEqual(await historyOf(singly, of));
          }
        }
      }),
      { numRuns: 20 },
    );
  });
});

test('somebody erased who is in a file has given the address again, and is decided again', async () => {
  await using its = await serveImports();
  const ofAda = async () => {
    const { state, optOuts } = await its.t.ledger.lookupSubject(subject('ada@example.com'));
    return [state.version, optOuts[0]?.subjects[0]?.masked];
  };
  await its.import('email\nada@example.com\n', 'scopes=email');
  const identifiers = [{ email: 'ada@example.com' }];
  await its.send('POST', '/v2/subjects/erasure', { key: its.key, body: { identifiers } });
  expect(await ofAda()).toEqual([1, undefined]);
  const file = 'email\nada@example.com\nada@example.com\n';
  const { counts } = await its.import(file, 'scopes=email');
  expect(counts).toMatchObject({ recorded: 1, already: 1 });
  expect(await ofAda()).toEqual([2, 'a••@e••.com']);
});

/** Everything that is decided of somebody, but only dates that were stated. */
async function historyOf(t: TestLedger, of: Subject): Promise<unknown> {
  const { state, optOuts } = await t.ledger.lookupSubject(of);
  const dated = (at: string): string | undefined => (at < '2026-06' ? at : undefined);
  return {
    version: state.version,
    suppressed: Object.fromEntries(
      Object.entries(state.suppressed).map(([scope, held]) => [
        scope,
        [dated(held.first_effective_at), dated(held.last_effective_at)],
      ]),
    ),
    optOuts: optOuts.map(({ optOut, subjects }) => ({
      scopes: [...optOut.requestedScopes].sort(),
      effectiveAt: dated(optOut.effectiveAt),
      subjects: subjects.map(({ kind, masked, state: then }) => `${kind} ${masked} ${then.version}`).sort(),
    })),
  };
}

describe('a dry run', () => {
  test('records nothing, and counts what the import then does', async () => {
    await using its = await serveImports();
    await its.t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
    // One person is in the file twice, in different batches.
    const file = `${csvOf(2_500)}ada@example.com\nnot an address\nP7@Example.com\n`;
    const before = await decisionsOf(its.t);

    const dry = await its.import(file, 'scopes=email&dry_run=true');
    expect(dry).toMatchObject({ state: 'done', dry_run: true, rows: { total: 2_503, done: 2_503 } });
    expect(await decisionsOf(its.t)).toBe(before);
    expect((await its.t.pool.query('select from subjects')).rowCount).toBe(1);
    expect((await its.t.pool.query('select from opt_outs')).rowCount).toBe(1);

    const real = await its.import(file);
    expect(real.counts).toEqual({ recorded: 2_500, already: 2, invalid: 1 });
    expect(dry.counts).toEqual(real.counts);
    expect((await its.errors(dry.id)).errors).toEqual((await its.errors(real.id)).errors);
  });

  test('needs no approval, and leaves nothing behind', async () => {
    const { state, id } = await api.import(csvOf(5_001), 'scopes=email&dry_run=true');
    expect(state).toBe('done');
    const left = async (table: string): Promise<number | null> =>
      (await api.t.pool.query(`select from ${table} where import_id = $1`, [id])).rowCount;
    await eventually(async () =>
      expect([await left('import_seen'), await left('import_chunks')]).toEqual([0, 0]),
    );
  });
});

describe('rows that cannot be taken', () => {
  const FILE = [
    'email,phone,scopes,effective_at,reason',
    'ada@example.com,,"email\r\n",,',
    'not an address,+41791234567,email,,',
    '',
    ',,email,,',
    '"bob@example.com",12,nonsense,yesterday,because',
    'cyd@example.com,,,,',
    'dan@example.com,,email',
    'eve@example.com,,email,2999-01-01T00:00:00Z,',
    'fay\xff@example.com,,email,,',
    'gus@example.com,,email,,',
  ].join('\n');

  test('are named by row, line and column, never with a value; the others are recorded', async () => {
    await using its = await serveImports();
    const { id, counts, rows } = await its.import(Buffer.from(FILE, 'latin1'), 'reason=other');
    // It needs no default scopes if there is a column of them.
    expect([rows.total, counts]).toEqual([9, { recorded: 2, already: 0, invalid: 7 }]);
    const { errors, found } = await its.errors(id);
    expect(errors).toEqual([
      { row: 2, line: 4, column: 'email', code: 'invalid' },
      { row: 3, line: 6, column: null, code: 'missing' },
      { row: 4, line: 7, column: 'phone', code: 'invalid' },
      { row: 4, line: 7, column: 'scopes', code: 'invalid' },
      { row: 4, line: 7, column: 'effective_at', code: 'invalid' },
      { row: 4, line: 7, column: 'reason', code: 'invalid' },
      { row: 5, line: 8, column: 'scopes', code: 'missing' },
      { row: 6, line: 9, column: null, code: 'wrong_number_of_fields' },
      { row: 7, line: 10, column: 'effective_at', code: 'too_far_ahead' },
      { row: 8, line: 11, column: 'email', code: 'not_utf8' },
    ]);
    expect(found).toBe(10);
    expect(Object.keys((await suppressedOf(its.t, 'gus@example.com')) as object)).toEqual(['email']);
    expect(await suppressedOf(its.t, '+41791234567', 'phone')).toEqual({});
  });

  test('are read page by page', async () => {
    const { id } = await api.import(Buffer.from(FILE, 'latin1'), 'reason=legal');
    const all = (await api.errors(id)).errors;
    const paged: unknown[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const query: string = `limit=3${cursor === '' ? '' : `&cursor=${cursor}`}`;
      const page = await api.errors(id, query);
      expect(page.errors.length).toBeLessThanOrEqual(3);
      paged.push(...page.errors);
      cursor = page.next_cursor;
    }
    expect(paged).toEqual(all);
  });

  test('of NDJSON are those that are no object of texts', async () => {
    const rows = [
      '{"email":"x"',
      '["ada@example.com"]',
      '{"email":1}',
      '{"email":"ada@example.com","email":"bob@example.com"}',
      '{"scopes":["email"]}',
      '{"email":"ada@example.com","scopes":[1]}',
      '{"email":"ada@example.com","scopes":[]}',
      '{"phone":{"__proto__":1}}',
      'null',
    ];
    const { id } = await api.import(rows.join('\n'), 'scopes=sms', 'application/x-ndjson');
    expect((await api.errors(id)).errors.map(({ row, column, code }) => [row, column, code])).toEqual([
      [1, null, 'not_json'],
      [2, null, 'not_json'],
      [3, 'email', 'invalid'],
      [4, null, 'not_json'],
      [5, null, 'missing'],
      [6, 'scopes', 'invalid'],
      [7, 'scopes', 'invalid'],
      [8, 'phone', 'invalid'],
      [9, null, 'not_json'],
    ]);
  });
});

describe('a file that cannot be read names the line where its row begins, however many could be read', () => {
  test.each([
    [
      'a quote within a field',
      'x"y@example.com\n',
      'a quote appears inside a field that does not begin with one',
    ],
    ['something behind a quote', '"x"y@example.com\n', 'something follows a closing quote'],
    ['a quote that is never closed', '"x@example.com\ny@example.com\n', 'a quote is opened and never closed'],
    [
      'a row of many lines',
      `"${'x\n'.repeat(40_000)}`,
      'a row is longer than 64 KiB, perhaps because a quote is never closed',
    ],
  ])('%s', async (_name, row, why) => {
    for (const before of [1, 5_000]) {
      const { json } = await api.post(`email\n${'ada@example.com\n'.repeat(before)}${row}`);
      expect(json.detail).toBe(`Line ${before + 2}: ${why}. Nothing of the file was recorded.`);
    }
  });
});

describe('a file that says what is not known here', () => {
  test.each([
    ['a misspelt column', 'email,scope\nada@example.com,sms\n', 'text/csv', ['/columns/scope']],
    ['a column in capitals', 'Email\nada@example.com\n', 'text/csv', ['/columns/Email', '/columns']],
    ['a column twice', 'email,email\na@example.com,b@example.com\n', 'text/csv', ['/columns/email']],
    ['no column of anybody', 'scopes,reason\nemail,other\n', 'text/csv', ['/columns']],
    ['an address where a column should be', 'ada@example.com\nbob@example.com\n', 'text/csv', ['/columns/(not shown)', '/columns']], // prettier-ignore
    ['semicolons between columns', 'email;phone\nada@example.com;\n', 'text/csv', ['/columns/(not shown)', '/columns']], // prettier-ignore
    ['a misspelt member in its last row', '{"email":"ada@example.com"}\n{"emial":"bob@example.com"}', 'application/x-ndjson', ['/columns/emial']], // prettier-ignore
  ])('%s: it is refused by name, and nothing is recorded', async (_name, file, type, pointers) => {
    const before = await decisionsOf(api.t);
    const answer = await api.post(file, 'scopes=email', { type });
    expect(problemOf(answer)).toEqual([422, 'invalid-value', pointers]);
    expect(answer.text).not.toContain('example.com');
    expect((await api.send('GET', '/v2/imports?state=pending', { key: api.key })).json.imports).toEqual([]);
    expect(await decisionsOf(api.t)).toBe(before);
    expect((await api.t.pool.query("select from imports where state = 'receiving'")).rowCount).toBe(0);
  });

  test('no scopes anywhere: it is refused', async () => {
    const answer = await api.post('email\nada@example.com\n', '');
    expect(problemOf(answer)).toEqual([422, 'invalid-value', ['/columns/scopes']]);
  });

  test.each([
    ['scopes=emails', ['/scopes/0']],
    ['scopes=email%20push/offers', ['/scopes/1']],
    ['scopes=', ['/scopes']],
    ['scopes=email&dryrun=true', ['/dryrun']],
    ['scopes=email&dry_run=yes', ['/dry_run']],
    ['scopes=email&reason=because', ['/reason']],
    ['scopes=email&effective_at=2026-02-31T00:00:00Z', ['/effective_at']],
    ['scopes=email&scopes=sms', ['/scopes']],
  ])('the parameters %s are refused', async (query, pointers) => {
    expect(problemOf(await api.post('email\n', query))).toEqual([422, 'invalid-value', pointers]);
  });

  test.each(['application/json', 'text/csv; charset=latin1', 'text/plain', 'multipart/form-data'])(
    'a file of type %s is refused',
    async (type) => {
      expect(problemOf(await api.post('email\n', undefined, { type }))).toEqual([
        415,
        'unsupported-file-type',
      ]);
    },
  );

  // Of a compressed CSV it was said that only JSON is read.
  test('a file that is compressed on the way is refused, and the answer says what is read', async () => {
    const headers = { 'content-type': 'text/csv', 'content-encoding': 'gzip' };
    const answer = await api.send('POST', '/v2/imports?scopes=email', {
      key: api.key,
      headers,
      body: 'email\n',
    });
    expect(answer.json).toMatchObject({ status: 415, title: 'Only CSV and NDJSON are read' });
  });
});

test.each(['text/csv; header=present', 'Text/CSV;charset="UTF-8"; header=present'])(
  'a file of type %s is read',
  async (type) => {
    const file = `email\nada-${type.length}@example.com\n`;
    expect((await api.post(file, undefined, { type })).status).toBe(202);
  },
);

describe('the same file again', () => {
  test('with the same parameters is the same import, also in the other order and while it runs', async () => {
    const file = csvOf(50, 900_000);
    const [one, other] = await Promise.all([
      api.post(file, 'scopes=email%20sms'),
      api.post(file, 'scopes=sms;email'),
    ]);
    expect([one.status, other.status].sort()).toEqual([200, 202]);
    expect(other.json.id).toBe(one.json.id);
    expect(one.headers.location).toBe(`/v2/imports/${one.json.id}`);
    await api.untilSettled(one.json.id as string);
    const again = await api.post(file, 'scopes=email%20sms');
    expect([again.status, again.json.id, again.json.counts.recorded]).toEqual([200, one.json.id, 50]);
  });

  test('with other parameters, or of another client, is another one: whom it names is opted out already', async () => {
    const file = csvOf(50, 910_000);
    const first = await api.import(file);
    const stranger = await api.makeKey({ client: 'other' });
    const theirs = await api.post(file, 'scopes=email', { key: stranger.token });
    expect([theirs.status, theirs.json.id === first.id]).toEqual([202, false]);
    const wider = await api.import(file, 'scopes=email&reason=legal');
    expect(wider.counts).toEqual({ recorded: 0, already: 50, invalid: 0 });
  });

  test('after it was cancelled is another one', async () => {
    const file = csvOf(5_001, 920_000);
    const { id } = await api.import(file);
    expect((await api.send('POST', `/v2/imports/${id}/cancellation`, { key: api.key })).json.state).toBe(
      'cancelled',
    );
    const again = await api.post(file);
    expect([again.status, again.json.id === id]).toEqual([202, false]);
  });
});

describe('a file that is lost', () => {
  const send = (its: ServedImports, people: number) =>
    its.post(
      Array.from({ length: people }, (_, n) => `{"email":"p${n}@example.com"}\n`).join(''),
      'scopes=email',
      { type: 'application/x-ndjson' },
    );

  // Found by reading: the answer to a commit was lost, so the file was given up, and the pieces of what was an import by then were
  // deleted. The same file sent again was that import, which came to no end, and no other one began.
  test('is not one that is given up after it was submitted all the same', async () => {
    await using its = await serveImports({ isCarried: false });
    const id = (await send(its, 2)).json.id as string;
    await its.t.ledger.imports.abandon(id);
    const again = await send(its, 2);
    expect([again.status, again.json.id]).toEqual([200, id]);
    await its.carry();
    expect(await its.untilSettled(id)).toMatchObject({
      state: 'done',
      counts: { recorded: 2, already: 0, invalid: 0 },
    });
  });

  test('fails its import, and the next one runs', async () => {
    await using its = await serveImports({ isCarried: false });
    const lost = (await send(its, 2)).json.id as string;
    const next = (await send(its, 3)).json.id as string;
    await its.t.pool.query('delete from import_chunks where import_id = $1', [lost]);
    await its.carry();

    expect(await its.untilSettled(next)).toMatchObject({ state: 'done', counts: { recorded: 3 } });
    expect(await its.read(lost)).toMatchObject({ state: 'failed', failure: 'internal-error' });
    const audited = await readAudit(its.t.pool, { after: 0, limit: 100, action: 'import.failed' });
    expect(audited).toMatchObject([{ resource: lost, details: { rows: 0, failure: 'internal-error' } }]);
    expect(its.log).toMatchObject([{ fields: { import: lost, rowsDone: 0, rowsTotal: 2 } }]);
  });
});

describe('people whom the ledger knows', () => {
  test('count once each, whatever the file repeats', async () => {
    const who = randomUUID();
    const rows = [`${who}@example.com`, ` ${who}@EXAMPLE.com`, `${who}@example.com`];
    const { counts } = await api.import(`email\n${rows.join('\n')}\n`);
    expect(counts).toEqual({ recorded: 1, already: 2, invalid: 0 });
  });

  test('get what they had not refused yet', async () => {
    await using its = await serveImports();
    await its.t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
    const { counts } = await its.import('email\nada@example.com\n', 'scopes=email%20sms');
    expect(counts).toEqual({ recorded: 1, already: 0, invalid: 0 });
    const { state } = await its.t.ledger.lookupSubject(subject('ada@example.com'));
    expect([state.version, Object.keys(state.suppressed).sort()]).toEqual([2, ['email', 'sms']]);
  });

  test('who consented since are not opted out by the same dated row once more', async () => {
    await using its = await serveImports();
    const file = 'email,effective_at\nada@example.com,2026-01-01T00:00:00Z\n';
    await its.import(file);
    const { rows } = await its.t.pool.query<{ id: string }>('select id from subjects');
    await grant(its.t, rows[0]!.id, ['email']);
    const { counts } = await its.import(`${file}\n`);
    expect(counts).toEqual({ recorded: 0, already: 1, invalid: 0 });
    expect(await suppressedOf(its.t, 'ada@example.com')).toEqual({});
  });

  test('while others opt the same people out one by one, each is counted exactly', async () => {
    await using its = await serveImports();
    const people = Array.from({ length: 3_000 }, (_, n) => `p${n}@example.com`);
    const [{ json }, ...singly] = await Promise.all([
      its.post(`email\n${people.join('\n')}\n`),
      ...people
        .filter((_, n) => n % 10 === 0)
        .map((who) => its.t.ledger.record(intent(who, { scopes: ['email'] }), render)),
    ]);
    const { counts } = await its.untilSettled(json.id as string);
    const first = singly.filter(({ status }) => status === 201).length;
    expect([counts.recorded + first, counts.already]).toEqual([3_000, first]);
    expect(await decisionsOf(its.t)).toBe(3_000);
  });
});

describe('a large file', () => {
  const large = (from: number): string => csvOf(5_001, from);

  test('waits for another key, and then runs', async () => {
    const { id, state, counts } = await api.import(large(100_000));
    expect([state, counts.recorded]).toEqual(['awaiting_approval', 0]);
    const approver = await api.makeKey({ client: 'operations', scopes: ['imports:approve'] });
    const approved = await api.send('POST', `/v2/imports/${id}/approval`, { key: approver.token });
    expect(approved.json).toMatchObject({ approval: { client: 'operations', key_id: approver.id } });
    expect(await api.untilSettled(id)).toMatchObject({ state: 'done', counts: { recorded: 5_001 } });
    // A repeated approval changes nothing.
    const again = await api.send('POST', `/v2/imports/${id}/approval`, { key: approver.token });
    expect([again.status, again.json.state]).toEqual([200, 'done']);
    const audited = await readAudit(api.t.pool, { after: 0, limit: 10, action: 'import.approved' });
    expect(audited.at(-1)).toMatchObject({ client: 'operations', keyId: approver.id, resource: id });
  });

  test('is not approved by the key that sent it, nor by one that stands in for it, nor without the scope', async () => {
    const both = await api.makeKey({ client: 'both', scopes: ['imports:write', 'imports:approve'] });
    const { json } = await api.post(large(200_000), 'scopes=email', { key: both.token });
    const path = `/v2/imports/${json.id}/approval`;
    expect(problemOf(await api.send('POST', path, { key: both.token }))).toEqual([403, 'second-key-needed']);
    const rotated = await rotatedFrom(api, both.id);
    expect(problemOf(await api.send('POST', path, { key: rotated }))).toEqual([403, 'second-key-needed']);
    expect(problemOf(await api.send('POST', path, { key: api.key }))).toEqual([403, 'missing-scope']);
    const colleague = await api.makeKey({ client: 'both', scopes: ['imports:approve'] });
    expect((await api.send('POST', path, { key: colleague.token })).status).toBe(200);
  });

  test('that nobody approved can be cancelled, and its file is gone', async () => {
    const { id } = await api.import(large(300_000));
    const cancelled = await api.send('POST', `/v2/imports/${id}/cancellation`, { key: api.key });
    expect([cancelled.status, cancelled.json.state]).toEqual([200, 'cancelled']);
    expect((await api.t.pool.query('select from import_chunks where import_id = $1', [id])).rowCount).toBe(0);
    const approver = await api.makeKey({ client: 'operations', scopes: ['imports:approve'] });
    const late = await api.send('POST', `/v2/imports/${id}/approval`, { key: approver.token });
    expect(problemOf(late)).toEqual([409, 'import-not-waiting']);
  });
});

test('what a key may opt out a day holds for its files as well: one that is too much fails, and is sent again', async () => {
  await awayFromMidnight();
  await using its = await serveImports();
  const { token, id: keyId } = await its.makeKey({ limits: { optOutsPerDay: 30 } });
  const send = async (file: string): Promise<unknown> => {
    const { json } = await its.post(file, 'scopes=email', { key: token });
    const { state, failure, counts } = await its.untilSettled(json.id as string);
    return [state, failure, counts.recorded, counts.already];
  };
  expect(await send(csvOf(20))).toEqual(['done', null, 20, 0]);
  // Nobody is newly opted out by this one.
  expect(await send(`${csvOf(20)}\n`)).toEqual(['done', null, 0, 20]);
  expect(await send(csvOf(31))).toEqual(['failed', 'budget-exhausted', 0, 0]);
  expect(await decisionsOf(its.t)).toBe(20);
  await limitKey(its.t.pool, { id: keyId, limits: { optOutsPerDay: 31 }, caller: undefined });
  expect(await send(csvOf(31))).toEqual(['done', null, 11, 20]);
});

// Found by thinking: the second batch overtook the first one, which waited for somebody, and took the key's budget; then each of
// the two waited for the other.
test('a batch that has to wait for somebody holds up the file no longer than that, also of a key with a budget', async () => {
  await using its = await serveImports({ isCarried: false });
  const { token } = await its.makeKey({ limits: { optOutsPerDay: 10_000 } });
  await its.send('POST', '/v1/opt-outs', { key: token, body: { subject: { email: 'p5@example.com' } } });
  const { json } = await its.post(csvOf(6_000), 'scopes=email', { key: token });
  const somebody = await its.t.pool.connect();
  try {
    await somebody.query('begin');
    await somebody.query('select from subjects for update');
    await its.carry();
    await eventually(async () => {
      const { rows } = await its.t.pool.query<{ state: string; waits: boolean }>(
        `select state, wait_event_type = 'Lock' as waits from pg_stat_activity
         where datname = current_database() and application_name = 'abide import' order by state`,
      );
      // The first batch waits for the row, and the second one for the first.
      expect(rows).toEqual([
        { state: 'active', waits: true },
        { state: 'idle in transaction', waits: false },
      ]);
    });
  } finally {
    await somebody.query('rollback');
    somebody.release();
  }
  expect(await its.untilSettled(json.id as string)).toMatchObject({
    state: 'done',
    counts: { recorded: 5_999, already: 1 },
  });
  expect(its.log).toEqual([]);
});

test('what began is not cancelled', async () => {
  const { id } = await api.import(csvOf(1, 930_000));
  const answer = await api.send('POST', `/v2/imports/${id}/cancellation`, { key: api.key });
  expect(problemOf(answer)).toEqual([409, 'import-not-waiting']);
});

test('of another client an import is not there, save for whoever approves', async () => {
  const { id } = await api.import(csvOf(1, 940_000));
  const stranger = await api.makeKey({ client: 'stranger' });
  const mute = await api.makeKey({ client: 'shop', scopes: ['opt_outs:write'] });
  for (const [method, path] of [
    ['GET', `/v2/imports/${id}`],
    ['GET', `/v2/imports/${id}/errors`],
    ['POST', `/v2/imports/${id}/cancellation`],
  ] as const) {
    expect(problemOf(await api.send(method, path, { key: stranger.token }))).toEqual([404, 'not-found']);
    expect(problemOf(await api.send(method, path, { key: mute.token }))).toEqual([403, 'missing-scope']);
    expect(problemOf(await api.send(method, path.replace(id, 'x'), { key: api.key }))).toEqual([
      404,
      'not-found',
    ]);
  }
  const theirs = await api.send('GET', '/v2/imports', { key: stranger.token });
  expect(theirs.json.imports).toEqual([]);
  const approver = await api.makeKey({ client: 'operations', scopes: ['imports:approve'] });
  expect((await api.send('GET', `/v2/imports/${id}`, { key: approver.token })).json.client).toBe('shop');
});

test('imports are listed newest first, page by page', async () => {
  await using its = await serveImports();
  const ids: string[] = [];
  for (let n = 0; n < 5; n += 1) ids.unshift((await its.import(csvOf(1, n))).id);
  const listed: string[] = [];
  for (let path: string | undefined = '/v2/imports?limit=2'; path !== undefined;) {
    const { json, headers } = await its.send('GET', path, { key: its.key });
    listed.push(...json.imports.map((one: { id: string }) => one.id));
    path = /<([^>]+)>; rel="next"/.exec(headers.link ?? '')?.[1];
  }
  expect(listed).toEqual(ids);
});

test('a process that ends leaves its file to another, and each row counts once', async () => {
  await using its = await serveImports({ isCarried: false });
  const { json } = await its.post(csvOf(20_000));
  const first = await its.carry();
  await eventually(async () => expect((await its.read(json.id as string)).rows.done).toBeGreaterThan(0));
  await first[Symbol.asyncDispose]();
  const left = await its.read(json.id as string);
  expect(left.state).toBe('running');
  expect(left.rows.done).toBeLessThan(20_000);

  await its.carry(await its.t.another());
  const ended = await its.untilSettled(json.id as string);
  expect(ended).toMatchObject({ state: 'done', counts: { recorded: 20_000, already: 0, invalid: 0 } });
  expect(await decisionsOf(its.t)).toBe(20_000);
  // Every row is in the audit log once.
  const audited = await readAudit(its.t.pool, { after: 0, limit: 100, action: 'import.recorded' });
  const ranges = audited.map(({ details }) => details.rows as [number, number]);
  expect(ranges.map(([from], n) => from - (ranges[n - 1]?.[1] ?? 0))).toEqual(ranges.map(() => 1));
  expect(ranges.at(-1)![1]).toBe(20_000);
});

async function rotatedFrom({ t }: ServedImports, id: string): Promise<string> {
  return (await rotateKey(t.pool, { id, overlapSeconds: 60, caller: undefined }))!.token;
}

// Whoever had sent it waited, and nothing said why.
test('imports that no process can claim are told of once each time, and carried when one can', async () => {
  await using api = await serveImports({ isCarried: false });
  const { id } = (await api.post(csvOf(1))).json as { id: string };
  const { claim } = api.t.ledger.imports;
  let isBroken = true;
  let tries = 0;
  const broken = async (holder: string): ReturnType<typeof claim> => {
    tries += 1;
    if (isBroken) throw new Error('permission denied for table imports');
    return await claim(holder);
  };
  await api.carry({ ...api.t.ledger, imports: { ...api.t.ledger.imports, claim: broken } });
  const triedAgain = async (): Promise<void> => {
    const before = tries;
    await eventually(() => expect(tries).toBeGreaterThan(before + 2));
  };
  const said = (): string[] => api.log.map(({ message }) => message);
  const once = 'imports wait, since none can be claimed: will try again';

  await triedAgain();
  expect(said()).toEqual([once]);
  isBroken = false;
  expect(await api.untilSettled(id)).toMatchObject({ state: 'done' });
  isBroken = true;
  await triedAgain();
  expect(said()).toEqual([once, once]);
});
