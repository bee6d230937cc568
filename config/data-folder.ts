import { resolve } from 'node:path';

/** Where an installation keeps what is its own: the embedded PostgreSQL, key ring, administrator's key. */
export const dataFolderOf = (env: Readonly<Record<string, string | undefined>>): string =>
  resolve(env['ABIDE_DATA'] || '.abide');
