// A stack as seen from beside it.
import { createConnectApi } from '../../debezium/connect-api.ts';
import type { TaskState } from '../../debezium/connect-api.ts';
import { findEmbeddedPostgres, startEmbeddedPostgres } from '../embedded-postgres.ts';
import { quietLog } from '../log.ts';
import { readPorts, stackFolderOf } from './layout.ts';
import { endLeftovers, findRunning, logFileOf, untilGone } from './program.ts';

export type StackStatus = {
  readonly programs: readonly {
    name: string;
    pid: number;
    port: number | undefined;
    log: string | undefined;
  }[];
  readonly task: TaskState;
};

export async function stackStatus(dataFolder: string): Promise<StackStatus> {
  const folder = stackFolderOf(dataFolder);
  const ports = readPorts(folder);
  const running = await findRunning(folder);
  const portOf = (name: string): number | undefined =>
    ports !== undefined && name in ports ? ports[name as keyof typeof ports] : undefined;
  // At its port there may be another stack's.
  const hasConnect = running.some(({ name }) => name === 'connect');
  return {
    programs: running
      .map(({ name, pid }) => ({
        name,
        pid,
        port: portOf(name),
        log: name === 'stack' ? undefined : logFileOf(folder, name),
      }))
      .toSorted((a, b) => a.name.localeCompare(b.name)),
    task:
      ports === undefined || !hasConnect
        ? 'unknown'
        : await createConnectApi(`http://127.0.0.1:${ports.connect}`).state(),
  };
}

/** Returns the names of what ended. */
export async function stopStack(dataFolder: string): Promise<readonly string[]> {
  const folder = stackFolderOf(dataFolder);
  const running = await findRunning(folder);
  const stack = running.find(({ name }) => name === 'stack');
  if (stack !== undefined) {
    process.kill(stack.pid, 'SIGTERM');
    await untilGone(stack.pid);
  }
  const left = await endLeftovers(folder);
  if (stack === undefined && left.length > 0 && (await findEmbeddedPostgres(dataFolder)) !== undefined) {
    // If a stack was killed, its server goes on as well: taken over, it can be stopped properly.
    await (await startEmbeddedPostgres({ dataFolder, log: quietLog })).stop();
  }
  return stack === undefined ? left : running.map(({ name }) => name);
}
