import { describe, expect, test } from '@jest/globals';
import { toDecision, UnreadableRow } from '../../stream/decision-row.ts';

const SUBJECT_ID = '0199bbbb-0000-7000-8000-000000000002';
const OPT_OUT_ID = '0199aaaa-0000-7000-8000-000000000001';
const EMAIL = { email: '2026-11-24T09:00:00.000Z' };
const SMS = { sms: { at: '2026-11-23T09:00:00.000Z', version: 1 } };

const DECISION = {
  seq: 42,
  optOutId: OPT_OUT_ID,
  subjectId: SUBJECT_ID,
  kind: 'email',
  version: 2,
  suppressed: EMAIL,
  granted: SMS,
  effectiveAt: '2026-11-24T09:00:00.123Z',
  recordedAt: '2026-11-24T09:00:01.000Z',
  sealed: 'AQID-g',
  transportKeyId: 3,
  traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
};

/** As PostgreSQL spells it and pgoutput brings it: everything is text except the bytes. */
const ROW = {
  seq: '42',
  id: '0199cccc-0000-7000-8000-000000000003',
  cause: 'opt_out',
  opt_out_id: OPT_OUT_ID,
  subject_id: SUBJECT_ID,
  kind: 'email',
  version: '2',
  suppressed: JSON.stringify(EMAIL),
  granted: JSON.stringify(SMS),
  effective_at: '2026-11-24 10:00:00.123456+01',
  recorded_at: '2026-11-24 09:00:01+00',
  sealed: Buffer.from([1, 2, 3, 250]),
  transport_key_id: '3',
  traceparent: DECISION.traceparent,
};

describe('a decision is the same decision', () => {
  test('as PostgreSQL’s text', () => {
    expect(toDecision(ROW)).toEqual(DECISION);
  });

  test('as a driver parsed it', () => {
    expect(
      toDecision({
        ...ROW,
        seq: 42n,
        version: 2,
        suppressed: EMAIL,
        granted: SMS,
        effective_at: new Date('2026-11-24T09:00:00.123Z'),
        recorded_at: new Date('2026-11-24T09:00:01Z'),
        transport_key_id: 3,
      }),
    ).toEqual(DECISION);
  });

  test('as the API’s JSON, where bytes are base64url and members that nobody asked for stand beside it', () => {
    expect(
      toDecision({
        ...ROW,
        seq: 42,
        version: 2,
        suppressed: EMAIL,
        granted: SMS,
        effective_at: '2026-11-24T09:00:00.123Z',
        recorded_at: '2026-11-24T09:00:01.000Z',
        sealed: 'AQID-g',
        transport_key_id: 3,
        attempts: 4,
        lane: 'live',
      }),
    ).toEqual(DECISION);
  });

  test('without what may be missing', () => {
    for (const nothing of [null, undefined])
      expect(
        toDecision({
          ...ROW,
          cause: undefined,
          opt_out_id: nothing,
          sealed: nothing,
          transport_key_id: nothing,
          traceparent: nothing,
        }),
      ).toEqual({
        ...DECISION,
        optOutId: undefined,
        sealed: undefined,
        transportKeyId: undefined,
        traceparent: undefined,
      });
  });

  test('for every cause and kind', () => {
    for (const cause of ['opt_out', 'grant', 'reissue'])
      for (const kind of ['email', 'phone', 'push_token', 'person_id'])
        expect(toDecision({ ...ROW, cause, kind }).kind).toBe(kind);
  });
});

// Seen: null, an empty text and false were all read as sequence number 0, and a time without a zone as local time.
test.each([
  [
    'seq',
    [
      undefined,
      null,
      '',
      ' ',
      false,
      [],
      0,
      '0',
      '-1',
      '1.5',
      '0x10',
      '1e3',
      'x',
      '9007199254740992',
      2 ** 53,
      NaN,
      {},
    ],
  ],
  ['version', [undefined, null, '', true, 0, '0', '-1', 1.5, '9007199254740993']],
  ['transport_key_id', ['', 'x', -1]],
  ['subject_id', [undefined, null, 7, 'lovelace']],
  ['kind', [undefined, null, 'fax', '']],
  ['cause', [null, 'whim']],
  ['suppressed', [undefined, null, '', '{', '[]', '"x"', { email: 1 }, '{"email":null}']],
  [
    'granted',
    [
      undefined,
      '{',
      { sms: 'x' },
      { sms: { at: SMS.sms.at } },
      { sms: { at: SMS.sms.at, version: null } },
      { sms: { at: SMS.sms.at, version: 0 } },
    ],
  ],
  [
    'effective_at',
    [undefined, null, '', 'now', 'infinity', '2026-11-24', '2026-11-24 09:00:00', '2026-11-24T09:00:00', 7],
  ],
  ['recorded_at', [undefined, null, '-infinity', new Date(NaN), '2026-11-24 09:00:00']],
  ['sealed', [7, {}, true]],
] as const)(
  'a row whose %s cannot be read is no decision, and the error names the column alone',
  (column, values) => {
    for (const value of values) {
      let thrown: unknown;
      try {
        toDecision({ ...ROW, [column]: value, traceparent: 'lovelace@example.com' });
      } catch (error) {
        thrown = error;
      }
      expect({ value, thrown }).toEqual({ value, thrown: expect.any(UnreadableRow) });
      expect(String(thrown)).not.toContain('lovelace');
      if (typeof value === 'string' && value.length > 1) expect(String(thrown)).not.toContain(value);
    }
  },
);

// Whoever may write to the topic wrote addresses into the log, and as many as a record takes.
test('a row with a hundred wrong scopes is described by its column alone', () => {
  const wrong = Object.fromEntries(Array.from({ length: 100 }, (_, n) => [`lovelace${n}@example.com`, n]));
  const suppressed = JSON.stringify(wrong);
  expect(() => toDecision({ ...ROW, suppressed, granted: suppressed })).toThrow(
    new UnreadableRow('A decision row cannot be read: suppressed, granted.'),
  );
});

test.each([undefined, null, 7, 'x', [], {}])('%p is no row', (row) => {
  expect(() => toDecision(row)).toThrow(UnreadableRow);
});
