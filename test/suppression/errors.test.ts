import { readFileSync } from 'node:fs';
import { STATUS_CODES } from 'node:http';
import { describe, expect, test } from '@jest/globals';
import { AbideError, ERRORS } from '../../suppression/errors.ts';
import type { ErrorCode } from '../../suppression/errors.ts';

describe('docs/errors.md', () => {
  /** The rows of its tables: code, status, title, retryable, what to do. */
  const rows = readFileSync('docs/errors.md', 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .map((line) =>
      line
        .slice(1, -1)
        .split(' | ')
        .map((cell) => cell.trim()),
    );

  test('lists every code once, in the order of the table, and none that there is not', () => {
    expect(rows.map(([code]) => code)).toEqual(Object.keys(ERRORS).map((code) => `\`${code}\``));
  });

  test.each(Object.keys(ERRORS) as ErrorCode[])('says of %s what the table says', (code) => {
    const [, status, title, retryable, what] = rows.find(([name]) => name === `\`${code}\``) ?? [];
    const entry = ERRORS[code];
    expect({ status, title, retryable }).toEqual({
      status: String(entry.status),
      title: entry.title,
      retryable: entry.retryable ? 'yes' : 'no',
    });
    expect(what).toMatch(/\.$/);
  });
});

test.each(Object.entries(ERRORS))('%s has a status that HTTP knows, and says what to do', (code, entry) => {
  expect(STATUS_CODES[entry.status]).toBeDefined();
  expect(entry.status).toBeGreaterThanOrEqual(400);
  expect(entry.help).toMatch(/\.$/);
  expect(entry.title).not.toMatch(/\.$/);
  // What a client may send again unchanged is not its own fault.
  expect(entry.retryable).toBe(
    entry.retryable && ([408, 409, 429].includes(entry.status) || entry.status >= 500),
  );
  expect(code).toMatch(/^(?:[a-z]+(?:-[a-z]+)*|[A-Z]+(?:_[A-Z]+)*)$/);
});

test('an error is data: its code, its faults, when to come again, and the cause', () => {
  const cause = new Error('why');
  const errors = [{ pointer: '/a', detail: 'is missing' }];
  const full = new AbideError('invalid-value', 'Said.', { cause, errors, retryAfterSeconds: 3 });
  expect(full).toMatchObject({
    name: 'AbideError',
    code: 'invalid-value',
    message: 'Said.',
    errors,
    retryAfterSeconds: 3,
    cause,
  });
  const plain = new AbideError('not-found');
  expect(plain).toMatchObject({
    message: ERRORS['not-found'].title,
    errors: undefined,
    retryAfterSeconds: undefined,
  });
  expect('cause' in plain).toBe(false);
});
