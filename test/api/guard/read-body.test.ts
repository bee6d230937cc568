import { connect } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { parseAnswers, problemOf, sendRaw } from '../../harness/http.ts';
import type { Answer } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';

const SECRET = 'ada.lovelace+private@example.com';

let api: ServedStub;
beforeAll(async () => {
  api = await serveStub();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});
beforeEach(() => {
  api.ledger.intents.length = 0;
});

const post = (body: unknown, headers: Record<string, string> = {}): Promise<Answer> =>
  api.send('POST', '/v1/opt-outs', { key: 'shop', body, headers });

describe('what is not JSON', () => {
  test.each([
    ['nothing', ''],
    ['half an object', '{"subject":{"email":"a@example.com"}'],
    ['two objects', '{"subject":{"email":"a@example.com"}}{}'],
    ['a comment', '{"subject":{"email":"a@example.com"} /* hers */}'],
    ['a trailing comma', '{"subject":{"email":"a@example.com"},}'],
    ['single quotes', "{'subject':{'email':'a@example.com'}}"],
    ['NaN', '{"subject":NaN}'],
    ['a byte order mark', '\ufeff{"subject":{"email":"a@example.com"}}'],
  ])('%s is 400 malformed-json, and nothing is recorded', async (_what, body) => {
    expect(problemOf(await post(body))).toEqual([400, 'malformed-json']);
    expect(api.ledger.intents).toEqual([]);
  });

  test('bytes that are no UTF-8 are refused: replaced, two addresses could become one', async () => {
    const bytes = Buffer.concat([
      Buffer.from('{"subject":{"email":"a'),
      Buffer.from([0xe9]),
      Buffer.from('@example.com"}}'),
    ]);
    expect(problemOf(await post(bytes))).toEqual([400, 'malformed-json']);
  });

  test('an unpaired surrogate is refused, a pair is text', async () => {
    expect(problemOf(await post('{"subject":{"person_id":"\\ud83d"}}'))).toEqual([400, 'malformed-json']);
    expect(problemOf(await post('{"\\udc00":1}'))).toEqual([400, 'malformed-json']);
    expect((await post('{"subject":{"person_id":"\\ud83d\\ude00"}}')).status).toBe(201);
  });

  test('what nests deeper than 32 levels is refused, however deep', async () => {
    const nested = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`;
    for (const depth of [33, 10_000, 30_000])
      expect(problemOf(await post(nested(depth)))).toEqual([400, 'malformed-json']);
    expect(problemOf(await post(nested(32)))).toEqual([422, 'invalid-value', ['']]);
  });
});

describe('a member that stands twice', () => {
  test.each([
    [
      'at the top',
      '{"scope":{"email":true},"subject":{"email":"a@example.com"},"scope":{"sms":true}}',
      '"scope"',
    ],
    ['below', '{"subject":{"email":"a@example.com","email":"b@example.com"}}', '"email"'],
    [
      'spelt with an escape',
      '{"subject":{"email":"a@example.com","\\u0065mail":"b@example.com"}}',
      '"email"',
    ],
    ['with a colon and a quote in its neighbours', '{"note":"a:\\"b:","note":"c"}', '"note"'],
    ['in an array', '{"items":[{"a":1},{"b":1,"b":2}]}', '"b"'],
    ['far behind', `{"subject":1,"x":[${'{"y":1},'.repeat(100)}0],"subject":2}`, '"subject"'],
  ])('%s is refused by name', async (_where, body, name) => {
    const answer = await post(body);
    expect(problemOf(answer)).toEqual([400, 'malformed-json']);
    expect(answer.json.detail).toContain(`The member ${name} appears twice`);
  });

  test('whose name could be an address is refused without its name', async () => {
    for (const name of [SECRET, '+442071838750', 'x442071838750']) {
      const answer = await post(`{"${name}":1,"${name}":2}`);
      expect(problemOf(answer)).toEqual([400, 'malformed-json']);
      expect(answer.text).not.toContain(name);
    }
  });

  test('is found wherever it stands, and is never seen where none is', async () => {
    const value = fc.jsonValue({ maxDepth: 4, depthSize: 'small' });
    await fc.assert(
      fc.asyncProperty(value, fc.string(), async (json, name) => {
        const wrap = (twice: boolean) =>
          `{"a":${JSON.stringify(json)},${JSON.stringify(name)}:1${twice ? `,${JSON.stringify(name)}:2` : ''}}`;
        fc.pre(name !== 'a' && name.isWellFormed() && wrap(false).isWellFormed());
        const [once, twice] = await Promise.all([post(wrap(false)), post(wrap(true))]);
        expect(once.status).toBe(422);
        expect(problemOf(twice)).toEqual([400, 'malformed-json']);
      }),
      { numRuns: 100 },
    );
  });
});

describe('nulls and unknown members', () => {
  test.each([
    ['/subject', '{"subject":null}'],
    ['/subject/email', '{"subject":{"email":null}}'],
    ['/scope', '{"subject":{"email":"a@example.com"},"scope":null}'],
    ['/scope/sms', '{"subject":{"email":"a@example.com"},"scope":{"email":true,"sms":null}}'],
    ['/effective_at', '{"subject":{"email":"a@example.com"},"effective_at":null}'],
    ['/reason', '{"subject":{"email":"a@example.com"},"reason":null}'],
    ['/note', '{"subject":{"email":"a@example.com"},"note":null}'],
    ['/idempotency_key', '{"subject":{"email":"a@example.com"},"idempotency_key":null}'],
  ])('a null at %s is refused by name', async (pointer, body) => {
    const answer = await post(body);
    expect(problemOf(answer)).toEqual([422, 'invalid-value', [pointer]]);
    expect(answer.json.errors[0].detail).toBe('must not be null');
  });

  test.each([
    ['/scopes', '{"subject":{"email":"a@example.com"},"scopes":{"email":true}}'],
    ['/scope/emial', '{"subject":{"email":"a@example.com"},"scope":{"email":true,"emial":true}}'],
    ['/subject/Email', '{"subject":{"email":"a@example.com","Email":"b@example.com"}}'],
    ['/__proto__', '{"subject":{"email":"a@example.com"},"__proto__":{"scope":{"push":true}}}'],
    ['/scope/__proto__', '{"subject":{"email":"a@example.com"},"scope":{"email":true,"__proto__":{}}}'],
    ['/subject/__proto__', '{"subject":{"__proto__":{},"email":"a@example.com"}}'],
    ['/constructor', '{"subject":{"email":"a@example.com"},"constructor":{}}'],
  ])(
    'an unknown member at %s is refused by name: a typo narrows nothing in silence',
    async (pointer, body) => {
      const answer = await post(body);
      expect(problemOf(answer)).toEqual([422, 'invalid-value', [pointer]]);
      expect(answer.json.errors[0].detail).toBe('is not known here');
      expect(api.ledger.intents).toEqual([]);
    },
  );

  test('an unknown member whose name could be an address is refused without its name', async () => {
    const answer = await post({ subject: { [SECRET]: 'email' }, [SECRET]: true });
    expect(problemOf(answer)).toEqual([
      422,
      'invalid-value',
      expect.arrayContaining(['/subject/(not shown)', '/(not shown)']),
    ]);
    expect(answer.text).not.toContain('lovelace');
  });
});

test('every fault is named at once, each by its JSON pointer', async () => {
  const answer = await api.send('POST', '/v1/opt-outs', {
    key: 'shop',
    headers: { 'Idempotency-Key': 'not visible' },
    body: {
      subject: { email: 'nobody', emial: 'x' },
      scope: { email: 'yes', fax: true },
      effective_at: 'yesterday',
      reason: 'because',
      note: 'x'.repeat(501),
      extra: 1,
    },
  });
  const [status, code, pointers] = problemOf(answer);
  expect([status, code]).toEqual([422, 'invalid-value']);
  expect((pointers as string[]).sort()).toEqual([
    '/effective_at',
    '/extra',
    '/idempotency_key',
    '/note',
    '/reason',
    '/scope/email',
    '/scope/fax',
    '/subject/email',
    '/subject/emial',
  ]);
});

test('an offending value is in no answer and in no log', async () => {
  const texts = [
    { subject: { email: `${SECRET} (hers)` } },
    { subject: { phone: SECRET } },
    { subject: { email: SECRET, phone: SECRET } },
    { subject: SECRET },
    { subject: [SECRET] },
    { subject: { person_id: `${SECRET}\u0001` } },
    { subject: { email: 'a@example.com' }, effective_at: SECRET },
    { subject: { email: 'a@example.com' }, reason: SECRET },
    { subject: { email: 'a@example.com' }, scope: SECRET },
    { subject: { email: 'a@example.com' }, scope: { email: SECRET } },
    { subject: { email: 'a@example.com' }, note: `${SECRET}\u0000` },
    { subject: { email: 'a@example.com' }, note: [SECRET] },
    { subject: { email: 'a@example.com' }, idempotency_key: ` ${SECRET}` },
    `{"note":"${SECRET}"`,
    `"${SECRET}`,
    SECRET,
    [SECRET],
  ];
  for (const body of texts) {
    const answer = await post(body);
    expect([400, 422]).toContain(answer.status);
    expect(answer.text).not.toContain('lovelace');
  }
  const elsewhere = [
    await api.send('POST', '/v1/subjects/lookup', { key: 'shop', body: { subject: { phone: SECRET } } }),
    await api.send('POST', '/v1/checks', { key: 'shop', body: { items: SECRET } }),
    await api.send('GET', `/v1/opt-outs?reason=${encodeURIComponent(SECRET)}`, { key: 'shop' }),
    await api.send('GET', `/v1/opt-outs?${encodeURIComponent(SECRET)}=1`, { key: 'shop' }),
    await api.send('GET', `/v1/opt-outs/${encodeURIComponent(SECRET)}`, { key: 'shop' }),
    await api.send('GET', `/${encodeURIComponent(SECRET)}`, { key: SECRET }),
    await api.send('GET', '/v1/opt-outs', { key: SECRET }),
  ];
  for (const { status, text, headers } of elsewhere) {
    expect(status).toBeGreaterThanOrEqual(400);
    expect(text + JSON.stringify(headers)).not.toContain('lovelace');
  }
  expect(api.log).toEqual([]);
});

describe('the media type', () => {
  const ok = '{"subject":{"email":"a@example.com"}}';

  test.each([
    'application/json',
    'Application/JSON',
    'application/json; charset=utf-8',
    'application/json;charset="UTF-8"',
  ])('%s is read', async (type) => {
    expect((await post(ok, { 'content-type': type })).status).toBe(201);
  });

  test.each([
    'text/plain',
    'text/json',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/merge-patch+json',
    'application/json; charset=latin1',
    'application/json, text/plain',
    '',
  ])('%p is 415 and nothing is recorded', async (type) => {
    expect(problemOf(await post(ok, { 'content-type': type }))).toEqual([415, 'unsupported-media-type']);
    expect(api.ledger.intents).toEqual([]);
  });

  test('none is 415', async () => {
    const [answer] = await sendRaw(
      api,
      `POST /v1/opt-outs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\nConnection: close\r\nContent-Length: ${ok.length}\r\n\r\n${ok}`,
    );
    expect(problemOf(answer!)).toEqual([415, 'unsupported-media-type']);
  });

  test('a compressed body is 415, an identity is not compressed', async () => {
    for (const encoding of ['gzip', 'br', 'gzip, identity'])
      expect(problemOf(await post(ok, { 'content-encoding': encoding }))).toEqual([
        415,
        'unsupported-media-type',
      ]);
    expect((await post(ok, { 'content-encoding': 'identity' })).status).toBe(201);
  });
});

describe('the size', () => {
  const sized = (bytes: number) => {
    const empty = JSON.stringify({ subject: { email: 'a@example.com' }, note: '' });
    return empty.replace('""', `"${'x'.repeat(bytes - empty.length)}"`);
  };

  test('of 64 KiB is read, one byte more is 413', async () => {
    expect(problemOf(await post(sized(64 * 1024)))).toEqual([422, 'invalid-value', ['/note']]);
    const answer = await post(sized(64 * 1024 + 1));
    expect(problemOf(answer)).toEqual([413, 'too-large']);
    expect(answer.json.detail).toBe('A body may have at most 64 KiB.');
  });

  test('is counted where it is not said beforehand', async () => {
    const chunk = 'x'.repeat(16 * 1024);
    const chunked = `${chunk.length.toString(16)}\r\n${chunk}\r\n`;
    const [answer] = await sendRaw(
      api,
      'POST /v1/opt-outs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\nConnection: close\r\n',
      'Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n',
      ...Array.from({ length: 5 }, () => chunked),
      '0\r\n\r\n',
    );
    expect(problemOf(answer!)).toEqual([413, 'too-large']);
  });

  test('a client that sends megabytes reads why it was refused, on a connection that stays usable', async () => {
    const answers = [await post('x'.repeat(4 * 1024 * 1024)), await post(sized(100))];
    expect(answers.map(({ status }) => status)).toEqual([413, 201]);
  });

  test('a client that goes on sending after its refusal is cut off', async () => {
    const socket = connect(api.port, '127.0.0.1');
    const ended = new Promise((resolve) => socket.once('close', resolve));
    let received = '';
    socket.on('data', (text) => (received += text.toString())).on('error', () => undefined);
    socket.write('POST /v1/opt-outs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\n');
    socket.write('Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n');
    const mebibyte = Buffer.alloc(1024 * 1024, 'x');
    const pump = (): void => {
      while (!socket.destroyed && socket.write(mebibyte));
    };
    socket.on('drain', pump);
    pump();
    await ended;
    expect(parseAnswers(received).map(problemOf)).toEqual([[413, 'too-large']]);
    expect(socket.bytesWritten).toBeLessThan(64 * 1024 * 1024);
  });

  test('a thousand checks may be a mebibyte, and a thousand acknowledgements two', async () => {
    const send = (path: string, key: string, mebibytes: number) =>
      api.send('POST', path, { key, body: JSON.stringify({ x: 'x'.repeat(mebibytes * 1024 * 1024 - 8) }) });
    expect((await send('/v1/checks', 'shop', 1)).status).toBe(422);
    expect((await send('/v1/checks', 'shop', 1.01)).json.detail).toBe('A body may have at most 1024 KiB.');
    expect((await send('/v1/acknowledgements', 'crm', 2)).status).toBe(422);
    expect((await send('/v1/acknowledgements', 'crm', 2.01)).json.detail).toBe(
      'A body may have at most 2048 KiB.',
    );
    expect((await send('/v1/subjects/lookup', 'shop', 1)).status).toBe(413);
  });

  test('a body that ends before its length records nothing', async () => {
    const [answer] = await sendRaw(
      { port: api.port, ends: true },
      'POST /v1/opt-outs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\n',
      'Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"subject":{"email":"a@example.com"}}',
    );
    expect(problemOf(answer!)).toEqual([400, 'invalid-request']);
    expect(api.ledger.intents).toEqual([]);
  });
});
