import { expect, test } from '@jest/globals';
import { selectRows, toParameter } from '../../ledger/rows.ts';
import type { Columns } from '../../ledger/rows.ts';
import { freshLedger } from '../harness/ledger.ts';

const COLUMNS = {
  id: 'uuid',
  word: 'text',
  words: 'text[]',
  bytes: 'bytea',
  small: 'smallint',
  whole: 'int',
  large: 'bigint',
  yes: 'boolean',
  at: 'timestamptz',
  document: 'jsonb',
} as const satisfies Columns;

const NOTHING = Object.fromEntries(Object.keys(COLUMNS).map((name) => [name, null]));

test('every value is what it was, in the order of the rows; what is absent is null, in a document as well', async () => {
  await using t = await freshLedger();
  const whole = {
    id: '01a21107-b4e9-77fd-a4a6-3364d00e3f37',
    word: 'a"b\\c\'d\n{},NULL',
    words: ['email', 'a "quoted" one', 'back\\slash', '', 'NULL', '{', 'ü,'],
    bytes: '\\x00ff',
    small: -1,
    whole: 2_147_483_647,
    large: 9_007_199_254_740_991,
    yes: false,
    at: '2026-11-24T09:00:00.123456Z',
    document: { a: [1, null, 'x"y'] },
  };
  const { rows } = await t.pool.query(`select * from (${selectRows(COLUMNS, '$1')}) x`, [
    toParameter(COLUMNS, [
      {},
      whole,
      { ...NOTHING, words: [], document: {} },
      Object.fromEntries(Object.entries(whole).reverse()),
    ]),
  ]);
  const read = { ...whole, bytes: Buffer.from([0, 255]) };
  expect(rows).toEqual([NOTHING, read, { ...NOTHING, words: [], document: {} }, read]);
});
