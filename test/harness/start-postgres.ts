// Jest's global setup. The server's session lives in this process, the parent of all workers.
import { FOLDER, startPostgresOfTheRun } from './postgres-of-the-run.ts';

declare global {
  var stopPostgresOfTheRun: (() => Promise<void>) | undefined;
}

export default async function startPostgres(): Promise<void> {
  if (process.env[FOLDER] !== undefined) return;
  const postgres = await startPostgresOfTheRun();
  process.env[FOLDER] = postgres.folder;
  globalThis.stopPostgresOfTheRun = () => postgres.stop();
}
