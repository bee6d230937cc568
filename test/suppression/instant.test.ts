import { describe, expect, test } from '@jest/globals';
import { InstantSchema } from '../../api/instant.ts';
import { toInstant } from '../../suppression/instant.ts';

const detailOf = (text: string): string | undefined =>
  InstantSchema.safeParse(text).error?.issues[0]?.message;

describe('an instant', () => {
  test.each([
    ['1970-01-01T00:00:00Z', '1970-01-01T00:00:00.000Z'],
    ['2026-11-24 10:00:00.5+01:00', '2026-11-24T09:00:00.500Z'],
    ['9999-12-31T23:59:59.999z', '9999-12-31T23:59:59.999Z'],
    // Leap seconds: valid RFC 3339, and systems record what happened in one.
    ['2016-12-31T23:59:60Z', '2016-12-31T23:59:59.999Z'],
    ['2017-01-01T00:59:60.25+01:00', '2016-12-31T23:59:59.999Z'],
  ])('%s is taken', (text, instant) => {
    expect(toInstant(text)).toBe(instant);
  });

  test.each([
    'yesterday',
    '2026-11-24T09:00:00',
    '2026-02-31T09:00:00Z',
    '2026-11-24T24:00:00Z',
    '2026-11-24T09:00:60Z',
    '2016-12-31T23:59:60+01:00',
    '2016-12-31T23:59:61Z',
  ])('%s is none', (text) => {
    expect(toInstant(text)).toBeUndefined();
    expect(detailOf(text)).toBe('must be an RFC 3339 time with an offset, such as 2026-11-24T09:00:00Z');
  });

  // Seen: .NET and Go write this where they have no date. It was answered that it is not RFC 3339, which it is.
  test.each([
    '0001-01-01T00:00:00Z',
    '1969-12-31T23:59:59.999Z',
    '1970-01-01T00:00:00+00:01',
    '9999-12-31T23:59:59-00:01',
  ])('%s is of another time, and is said to be', (text) => {
    expect(toInstant(text)).toBeUndefined();
    expect(detailOf(text)).toBe('must be from 1970 to 9999; a date that is not known is left out');
  });
});
