// The administrator's key, as far as this installation makes it up itself.
import { makeToken } from '../ledger/api-keys.ts';
import { ADMINISTRATOR_SCOPES } from '../ledger/contract/api-keys.ts';
import type { OpenLedger } from '../ledger/open-ledger.ts';
import { adminKeyFile, makeFile } from './kept-file.ts';

/** What the ledger records of it. */
export const ADMINISTRATOR = {
  client: 'administrator',
  scopes: ADMINISTRATOR_SCOPES,
  store: undefined,
  expiresAt: undefined,
  caller: undefined,
} as const;

/**
 * Makes the key and keeps it as admin.key (0600). It is kept before it is recorded: a crash in between leaves a key that the next
 * start records, where the other order would leave one that nobody has, and no start would make another.
 */
export async function makeAdministratorKey(
  dataFolder: string,
  createKey: OpenLedger['createKey'],
): Promise<string> {
  const token = makeToken();
  makeFile(adminKeyFile(dataFolder), `${token}\n`);
  await createKey({ ...ADMINISTRATOR, token });
  return token;
}
