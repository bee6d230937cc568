import { expect, test } from '@jest/globals';
import { asLedgerError } from '../../ledger/database.ts';

const coded = (code: string): Error => Object.assign(new Error(code), { code });

// Found by reading: while the network was gone, clients were answered 500, and a file that was carried then failed.
test.each(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'ENETDOWN', 'EAI_AGAIN', '57P01', '25006'])(
  'a database that cannot be asked (%s) is unavailable',
  (code) => {
    expect(asLedgerError(coded(code))).toMatchObject({ code: 'ledger-unavailable' });
    // A host with several addresses fails at each.
    expect(asLedgerError(new AggregateError([coded(code)]))).toMatchObject({ code: 'ledger-unavailable' });
  },
);

test('what a database refuses stays what it is', () => {
  const refused = coded('23514');
  expect(asLedgerError(refused)).toBe(refused);
});
