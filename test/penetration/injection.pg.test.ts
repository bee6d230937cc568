// Injection: values that their next reader would run: a database, a reader of headers, a spreadsheet, a terminal.
import { connect } from 'node:net';
import { Readable, Writable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { filterImport } from '../../cli/import-filter.ts';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { countRows } from './unchanged.ts';

let api: ServedToClients;
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const post = (body: object, headers: Record<string, string> = {}) =>
  api.send('POST', '/v1/opt-outs', { key: api.key, body, headers });

describe('SQL in a value', () => {
  const SQL = [
    "'",
    '"',
    "' or '1'='1",
    "'; drop table opt_outs; --",
    "'; select pg_sleep(30); --",
    "1' union select secret_sha256 from api_keys --",
    '$1',
    '$$; delete from decisions; $$',
    "\\'; truncate audit_log; --",
    "${'a'}",
    '%s',
    "E'\\x27'",
    '{"$gt":""}',
    "{a,b}'::text[]",
  ];

  test.each(SQL)('%s is text: recorded as it is, found as it is, and of nobody else', async (evil) => {
    const before = await countRows(api.t);
    const subject = { person_id: evil };
    const { status, json } = await post(
      { subject, note: evil },
      { 'Idempotency-Key': Buffer.from(evil).toString('base64') },
    );
    expect(status).toBe(201);
    const found = await api.send('POST', '/v1/subjects/lookup', { key: api.key, body: { subject } });
    expect(found.json.opt_outs.map(({ id }: { id: string }) => id)).toEqual([json.id]);
    expect(await countRows(api.t)).toMatchObject({
      subjects: before.subjects! + 1,
      opt_outs: before.opt_outs! + 1,
    });
  });

  test.each(SQL)('%s in a query or a path finds nothing and breaks nothing', async (evil) => {
    const text = encodeURIComponent(evil);
    for (const path of [
      `/v1/opt-outs?store=${text}`,
      `/v1/opt-outs?cursor=${text}`,
      `/v1/opt-outs?reason=${text}`,
      `/v1/opt-outs?since=${text}`,
      `/v1/opt-outs/${text}`,
      `/v1/stores/${text}/gate`,
      `/v1/stores/${text}/quarantine`,
      `/v1/stores/crm/quarantine/${text}`,
      `/v1/stores/crm/quarantine?code=${text}`,
      `/v1/stores/crm/quarantine?cursor=${text}`,
      `/v1/stores/${text}/reconciliation`,
    ])
      expect([200, 404, 422]).toContain((await api.send('GET', path, { key: api.key })).status);
  });

  // Seen: PostgreSQL's text has no NUL, and a query for a store of such a name failed: 500.
  test.each([
    ['GET', 'gate', undefined],
    ['GET', 'quarantine', undefined],
    ['GET', 'quarantine/1', undefined],
    ['POST', 'quarantine/retry', { all: true }],
    ['GET', 'reconciliation', undefined],
    ['POST', 'reconciliation', undefined],
  ] as const)('a name with a NUL is no store of ours: %s %s', async (method, call, body) => {
    for (const name of ['%00', 'crm%00', 'c%00rm']) {
      const answer = await api.send(method, `/v1/stores/${name}/${call}`, { key: api.key, body });
      expect([answer.status, answer.json.code]).toEqual([404, 'not-found']);
    }
  });

  test('a NUL in a query is found nowhere', async () => {
    for (const query of ['store=crm%00', 'cursor=%00', 'since=%00', 'reason=%00', 'state=%00'])
      for (const version of ['v1', 'v2'])
        expect([200, 422]).toContain(
          (await api.send('GET', `/${version}/opt-outs?${query}`, { key: api.key })).status,
        );
  });
});

describe('a header of the answer', () => {
  /** The whole of an answer, as bytes. */
  async function raw(request: string): Promise<string> {
    const socket = connect(api.port, '127.0.0.1');
    let text = '';
    socket.setEncoding('utf8').on('data', (more: string) => (text += more));
    socket.write(request);
    await new Promise((resolve) => socket.once('close', resolve));
    return text;
  }
  const MARK = 'x-injected';
  const ENCODED = [
    '%0d%0aX-Injected:%201',
    '%0aX-Injected:%201',
    '%E5%98%8A%E5%98%8DX-Injected:%201',
    '%c0%8d%c0%8aX-Injected:1',
    '\u560a\u560dX-Injected:1',
    '%23%0dX-Injected:1',
    '%2527%250d%250aX-Injected:1',
  ];

  test.each(ENCODED)('has nothing in it of what a path, a query or a header brings: %s', async (evil) => {
    const paths = [
      `/v1/opt-outs/${evil}`,
      `/${evil}`,
      `/v1/stores/${evil}/quarantine`,
      `/v1/opt-outs?cursor=${evil}`,
      `/v1/opt-outs?${evil}=1`,
      `/docs/${evil}`,
      `/v1/opt-outs?limit=1&store=${evil}`,
    ];
    for (const path of paths) {
      const [head] = (
        await raw(
          `GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${api.key}\r\nX-Request-Id: ${evil}\r\nPrefer: wait=0, ${evil}\r\nConnection: close\r\n\r\n`,
        )
      ).split('\r\n\r\n');
      expect(head!.toLowerCase()).not.toContain(MARK);
    }
  });

  test('that names the next page has the query encoded, whatever stands in it', async () => {
    await post({ subject: { person_id: 'one' } });
    await post({ subject: { person_id: 'two' } });
    const { headers } = await api.send('GET', `/v1/opt-outs?limit=1&since=2020-01-01T00:00:00%2B00:00`, {
      key: api.key,
    });
    expect(headers.link).toMatch(/^<\/v1\/opt-outs\?[\w.~%+=&:-]+>; rel="next"$/);
  });

  test('is not made of a body either', async () => {
    const evil = 'a\r\nX-Injected: 1';
    for (const body of [
      { subject: { person_id: 'body' }, idempotency_key: evil },
      { subject: { email: `ada@example.com\r\nX-Injected: 1` } },
      { subject: { person_id: 'body' }, [evil]: 1 },
    ]) {
      const { status, headers } = await post(body);
      expect([status, headers[MARK]]).toEqual([422, undefined]);
    }
  });

  test('never has the request id that a client sends', async () => {
    for (const sent of ['mine', '00000000-0000-4000-8000-000000000000', 'a; b=c']) {
      const { headers } = await api.send('GET', '/livez', {
        headers: { 'X-Request-Id': sent, 'X-Correlation-Id': sent },
      });
      expect(JSON.stringify(headers)).not.toContain(sent);
    }
  });

  test('never has what an error could repeat: the host, the origin, the method, the path', async () => {
    const text = await raw(
      `EVIL /secret-path HTTP/1.1\r\nHost: secret.host\r\nOrigin: https://secret.origin\r\nConnection: close\r\n\r\n`,
    );
    const known = await raw(
      `GET /secret-path?secret=1 HTTP/1.1\r\nHost: secret.host\r\nOrigin: https://secret.origin\r\nReferer: https://secret.origin\r\nConnection: close\r\n\r\n`,
    );
    expect(text + known).not.toMatch(/secret|EVIL/);
  });
});

describe('a cell that a spreadsheet would run', () => {
  const EVIL = [
    '=1+1',
    '+1+1',
    '-1+1',
    '@SUM(1)',
    '\t=1+1',
    '=cmd|/C calc!A0',
    '=HYPERLINK("http://evil.test","x")',
  ];

  async function filtered(
    csv: string,
    mark: string | undefined,
    reason: string | undefined,
  ): Promise<string> {
    const written: Buffer[] = [];
    await filterImport(
      {
        input: Readable.from([Buffer.from(csv)]),
        output: new Writable({ write: (chunk: Buffer, _, done) => (written.push(chunk), done()) }),
        columns: { email: 'email' },
        mark,
        check: (rows) => Promise.resolve(rows.map(() => reason)),
        note: () => undefined,
        signal: new AbortController().signal,
      },
      { rows: 0, kept: 0, dropped: 0, invalid: 0 },
    );
    return Buffer.concat(written).toString();
  }
  const quoted = (cell: string): string => `"${cell.replaceAll('"', '""')}"`;

  // A phone number begins with +: the content of a file of contacts is not ours to change.
  test('stays as its file has it, in its own cell, and Abide writes none of its own', async () => {
    for (const cell of EVIL) {
      const csv = `email,remark\nada@example.com,${quoted(cell)}\n`;
      expect(await filtered(csv, undefined, undefined)).toBe(csv);
      for (const reason of [undefined, 'opted_out', 'topic_required'])
        expect(await filtered(csv, 'suppressed', reason)).toBe(
          `email,remark,suppressed\nada@example.com,${quoted(cell)},${reason ?? ''}\n`,
        );
    }
  });

  test('cannot be reached by a cell that ends another one, or the row', async () => {
    for (const address of ['"a""@x.com,=1+1"', '"a@x.com\n=1+1"', '"a@x.com\r\n=1+1,b"']) {
      const csv = `email,n\n${address},1\n`;
      expect(await filtered(csv, 'suppressed', 'opted_out')).toBe(
        `email,n,suppressed\n${address},1,opted_out\n`,
      );
      expect(await filtered(csv, undefined, 'opted_out')).toBe('email,n\n');
    }
  });

  test('is not made of an answer either, whoever answers in the place of the API', async () => {
    for (const reason of [
      ...EVIL,
      ...EVIL.map((cell) => `opted_out,${cell}`),
      'opted_out\nada@example.com,',
      '"',
      '',
    ])
      expect(await filtered('email\nada@example.com\n', 'suppressed', reason)).toBe(
        'email,suppressed\nada@example.com,opted_out\n',
      );
  });
});
