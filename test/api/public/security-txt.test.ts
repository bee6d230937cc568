// RFC 9116: whom to tell of a weakness.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { securityTxt } from '../../../api/public/security-txt.ts';
import { problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';

const PATH = '/.well-known/security.txt';
const DAY_MS = 86_400_000;

let api: ServedStub;
beforeAll(async () => {
  api = await serveStub({}, { security: { contact: 'mailto:security@example.com', policy: undefined } });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

test('where a contact is configured, whoever asks is told it without a login', async () => {
  const { status, headers, text } = await api.send('GET', PATH);
  expect([status, headers['content-type']]).toEqual([200, 'text/plain; charset=utf-8']);
  const [contact, expires, end, ...more] = text.split('\n');
  expect([contact, end, more]).toEqual(['Contact: mailto:security@example.com', '', []]);
  const [, until] = /^Expires: (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)$/.exec(expires!)!;
  const ahead = Date.parse(until!) - Date.now();
  expect(ahead).toBeGreaterThan(28 * DAY_MS);
  expect(ahead).toBeLessThanOrEqual(30 * DAY_MS);
});

test('where none is configured there is no such file', async () => {
  await using silent = await serveStub();
  expect(problemOf(await silent.send('GET', PATH))).toEqual([404, 'not-found']);
});

describe('the file', () => {
  const security = { contact: 'https://example.com/report', policy: 'https://example.com/policy' };

  test('names the policy, and is the same for a whole day', () => {
    const morning = securityTxt(security, Date.parse('2026-11-24T00:00:00Z'));
    expect(morning).toBe(
      'Contact: https://example.com/report\nExpires: 2026-12-24T00:00:00.000Z\nPolicy: https://example.com/policy\n',
    );
    expect(securityTxt(security, Date.parse('2026-11-24T23:59:59Z'))).toBe(morning);
  });
});
