// Addresses that look alike, and one address in many disguises. Spellings of one mailbox are one person, so that nobody is reached
// under another spelling; a mere look-alike is somebody else, so that nobody is silenced in another's name.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { problemOf } from '../harness/http.ts';
import { countRows } from './unchanged.ts';

let api: ServedToClients;
beforeAll(async () => {
  api = await serveToClients();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const optOut = (subject: object) => api.send('POST', '/v1/opt-outs', { key: api.key, body: { subject } });
const maySend = async (subject: object): Promise<unknown> => {
  const { json } = await api.send('POST', '/v1/checks', {
    key: api.key,
    body: { items: [{ subject, channel: 'email' }] },
  });
  return json.items[0].reason ?? 'send';
};
const subjects = async (): Promise<number> => (await countRows(api.t)).subjects!;

describe('spellings of one mailbox are one person', () => {
  test.each([
    [
      'composed and taken apart',
      ['é.lodie@example.com', 'e\u0301.lodie@example.com', 'E\u0301.LODIE@example.com'],
    ],
    ['marks in another order', ['a\u0323\u0301@example.com', 'a\u0301\u0323@example.com']],
    ['signs that are canonically letters', ['kate@example.com', '\u212Aate@example.com', 'KATE@EXAMPLE.COM']],
    [
      'a domain in Unicode and in its A-label',
      ['ada@bücher.test', 'ada@xn--bcher-kva.test', 'ada@BU\u0308CHER.test'],
    ],
    [
      'a domain of full-width letters',
      ['wide@example.com', 'wide@\uff45\uff58\uff41\uff4d\uff50\uff4c\uff45.com'],
    ],
    [
      'another full stop',
      ['stop@example.com', 'stop@example\u3002com', 'stop@example\uff0ecom', 'stop@example.com.'],
    ],
    [
      'what is invisible in a domain',
      ['hidden@example.com', 'hidden@exam\u00adple.com', 'hidden@exam\u200bple.com'],
    ],
    ['spaces around it', ['space@example.com', ' space@example.com\n', '\u00a0space@example.com\ufeff']],
  ])('%s', async (_, spellings) => {
    const before = await subjects();
    for (const email of spellings) expect([200, 201]).toContain((await optOut({ email })).status);
    expect(await subjects()).toBe(before + 1);
    for (const email of spellings) expect([email, await maySend({ email })]).toEqual([email, 'opted_out']);
  });

  test('digits of other scripts, and the signs between them', async () => {
    const before = await subjects();
    const spellings = [
      '+442071838750',
      '+44 (0)20 7183-8750',
      '+\u0664\u0664\u0662\u0660\u0667\u0661\u0668\u0663\u0668\u0667\u0665\u0660',
      '+\uff14\uff14\uff12\uff10\uff17\uff11\uff18\uff13\uff18\uff17\uff15\uff10',
    ];
    for (const phone of spellings) expect([200, 201]).toContain((await optOut({ phone })).status);
    expect(await subjects()).toBe(before + 1);
    for (const phone of spellings) expect([phone, await maySend({ phone })]).toEqual([phone, 'opted_out']);
  });
});

describe('what only looks alike is somebody else', () => {
  test.each([
    ['a Cyrillic letter in the name', 'ada@paypal.test', '\u0430da@paypal.test'],
    ['a Cyrillic letter in the domain', 'ada@paypal.example', 'ada@p\u0430ypal.example'],
    ['a whole domain of another script', 'ada@cope.example', 'ada@\u0441\u043e\u0440\u0435.example'],
    ['a Greek letter', 'noon@example.com', 'n\u03bfon@example.com'],
    ['a full-width letter in the name', 'full@example.com', '\uff46ull@example.com'],
    ['a ligature', 'file@example.com', '\ufb01le@example.com'],
    ['a long s', 'sam@example.com', '\u017fam@example.com'],
    ['a dotless i', 'ida@example.com', '\u0131da@example.com'],
    ['a capital I with its dot', 'ilse@example.com', '\u0130lse@example.com'],
    ['a sharp s for two', 'weiss@example.com', 'weiß@example.com'],
    ['a sharp s in the domain', 'ada@strasse.test', 'ada@straße.test'],
    ['a digit one for an l', 'ali@example.com', 'a1i@example.com'],
    ['a mark more', 'more@example.com', 'more\u0301@example.com'],
    ['a combining joiner, which is seen by nobody', 'join@example.com', 'jo\u034fin@example.com'],
    ['a dot', 'a.b@example.com', 'ab@example.com'],
    ['a tag', 'tag@example.com', 'tag+x@example.com'],
  ])('%s', async (_, real, alike) => {
    expect((await optOut({ email: alike })).status).toBe(201);
    expect([await maySend({ email: alike }), await maySend({ email: real })]).toEqual(['opted_out', 'send']);
    expect((await optOut({ email: real })).status).toBe(201);
  });

  test('a person id and a push token are not ours to read: other characters are other people', async () => {
    for (const kind of ['person_id', 'push_token']) {
      expect((await optOut({ [kind]: 'Zoe\u0301' })).status).toBe(201);
      for (const other of ['Zo\u00e9', 'zoe\u0301', 'Zo\u0435\u0301', 'Zoe\u0301\u200b'])
        expect([other, await maySend({ [kind]: other })]).toEqual([other, 'send']);
    }
  });

  test('the same text as another kind of identifier', async () => {
    expect((await optOut({ person_id: 'same@example.com' })).status).toBe(201);
    expect(await maySend({ email: 'same@example.com' })).toBe('send');
  });
});

describe('what is made to deceive whoever reads it is no address, and may not be written to', () => {
  test.each([
    ['a zero-width space in the name', 'a\u200bda@example.com'],
    ['a zero-width joiner', 'a\u200dda@example.com'],
    ['a soft hyphen in the name', 'a\u00adda@example.com'],
    ['a byte order mark in the name', 'a\ufeffda@example.com'],
    ['text from right to left', '\u202emoc.elpmaxe@ada'],
    ['an override in the name', 'a\u202eda@example.com'],
    ['an override in the domain', 'ada@ex\u202eample.com'],
    ['an isolate', '\u2066ada@example.com\u2069'],
    ['a full-width sign at', 'ada\uff20example.com'],
    ['a small sign at', 'ada\ufe6bexample.com'],
    ['a full-width slash in the domain', 'ada@example.com\uff0fevil.test'],
    ['a full-width question mark in the domain', 'ada@example.com\uff1fevil.test'],
    ['a fraction whose parts have a slash', 'ada@evil.test\u2100.example.com'],
    ['a comma and somebody else', 'ada@example.com,bob@example.com'],
    ['a route', '@evil.test:ada@example.com'],
    ['a percent hack', 'ada%evil.test@'],
    ['a comment', 'ada(comment)@example.com'],
    ['a quoted name', '"ada@evil.test"@example.com'],
    ['an address of a machine', 'ada@[127.0.0.1]'],
    ['a domain of digits alone', 'ada@127.0.0.1'],
    ['an A-label of nothing', 'ada@xn--.com'],
    ['an A-label that says what may not stand there', 'ada@xn--a-ecp.ru.xn--\u200b'],
    ['a line more', 'ada@example.com\nBcc: bob@example.com'],
    ['a NUL', 'ada@example.com\0.evil.test'],
  ])('%s', async (_, email) => {
    const before = await countRows(api.t);
    expect(problemOf(await optOut({ email }))).toEqual([422, 'invalid-value', ['/subject/email']]);
    expect(await maySend({ email })).toBe('invalid_item');
    expect(await countRows(api.t)).toEqual(before);
  });

  test.each([
    ['a sign at in two bytes', '616461c180'],
    ['a slash in two bytes', 'c0af'],
    ['a slash in three bytes', 'e080af'],
    ['a NUL in two bytes', 'c080'],
    ['half of a surrogate pair', 'eda080'],
    ['beyond Unicode', 'f4908080'],
    ['a byte alone', '80'],
  ])('bytes that UTF-8 does not have: %s', async (_, hex) => {
    const body = Buffer.concat([
      Buffer.from('{"subject":{"email":"a'),
      Buffer.from(hex, 'hex'),
      Buffer.from('@example.com"}}'),
    ]);
    const before = await countRows(api.t);
    const answer = await api.send('POST', '/v1/opt-outs', { key: api.key, body });
    expect(problemOf(answer)).toEqual([400, 'malformed-json']);
    expect(await countRows(api.t)).toEqual(before);
  });
});
