// Beyond this machine Abide makes up no secrets: the key ring and the administrator's key are given, or were kept in the data
// folder by an earlier start.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Configuration } from '../config/configuration.ts';
import { adminKeyFile, keysFile, replaceFile } from './kept-file.ts';

export const isLoopback = (host: string): boolean => ['127.0.0.1', '::1', 'localhost'].includes(host);

/** Whether admin.key keeps the key with this id; the commands here read it there. */
export function isKept(dataFolder: string, id: string): boolean {
  const file = adminKeyFile(dataFolder);
  return existsSync(file) && readFileSync(file, 'utf8').startsWith(`abide_live_${id}_`);
}

/** Puts the new key into admin.key if that keeps the one that it replaces. Returns the file. */
export function keepRotated(dataFolder: string, oldId: string, token: string): string | undefined {
  if (!isKept(dataFolder, oldId)) return undefined;
  const file = adminKeyFile(dataFolder);
  replaceFile(file, `${token}\n`);
  return file;
}

/** What must be given before Abide starts, as far as that can be said without a database; undefined: nothing. */
export function lackingSecrets(
  { listen, database }: Pick<Configuration, 'listen' | 'database'>,
  dataFolder: string,
  env: Readonly<Record<string, string | undefined>>,
): string | undefined {
  if (isLoopback(listen.host)) return undefined;
  const lacking: string[] = [];
  if (!env['ABIDE_KEYS'] && !existsSync(keysFile(dataFolder)))
    lacking.push(
      'ABIDE_KEYS (for a new database `abide keys ring` prints one, and `abide ledger init` begins with it)',
    );
  // An existing database may have keys, and then none is made.
  const isNew = database === undefined && !existsSync(join(dataFolder, 'postgres', 'PG_VERSION'));
  if (isNew && !env['ABIDE_ADMIN_KEY'] && !existsSync(adminKeyFile(dataFolder)))
    lacking.push('ABIDE_ADMIN_KEY (`abide keys token` prints a new one)');
  if (lacking.length === 0) return undefined;
  return `Abide listens beyond this machine, where it makes no secrets of its own: set ${lacking.join(' and ')}.`;
}
