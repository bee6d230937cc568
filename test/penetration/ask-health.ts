// A thread that asks for health again and again, on one connection, and tells how it was answered: the thread that makes a flood is
// too busy to measure.
import { Agent, get } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';

/** `ms` are how long each answer took, the fastest first. */
export type Health = { readonly ms: readonly number[]; readonly statuses: readonly number[] };

const PAUSE_MS = 50;
// A new connection would be accepted in its turn, behind those of the flood (libuv accepts one each time it looks).
const agent = new Agent({ keepAlive: true, maxSockets: 1 });

const ask = (url: string): Promise<number> =>
  new Promise((resolve) => {
    get(url, { agent }, (answer) => {
      answer.resume().once('end', () => resolve(answer.statusCode!));
    }).once('error', () => resolve(0));
  });

let isOver = false;
parentPort!.once('message', () => (isOver = true));
const statuses = new Set<number>();
const ms: number[] = [];
while (!isOver) {
  const began = performance.now();
  statuses.add(await ask(workerData as string));
  ms.push(performance.now() - began);
  await delay(PAUSE_MS);
}
agent.destroy();
parentPort!.postMessage({ ms: ms.sort((a, b) => a - b), statuses: [...statuses] } satisfies Health);
