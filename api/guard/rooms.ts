// How many requests that are not answered to their end are held at once, and how much of their bodies. What comes beyond is
// refused, 503 `overloaded`, before anything of it is kept: memory is bounded by what is counted here, however many ask.
//
// Each kind of caller has a room of its own, so that a flood of one takes nothing from the others: callers who have shown no valid
// key yet, clients, workers, callers who let an answer be held, and health. /livez holds nothing and needs no room.
//
// The arithmetic, measured: a waiting request costs 25 KiB with its connection, 45 KiB with the largest headers allowed. All rooms
// full are 7,250 requests: 180 MiB, at the very worst 320. Bodies are 64 MiB more, and a few times that for a moment while they are
// read as JSON.
import type { Context } from 'koa';
import { AbideError } from '../../suppression/errors.ts';

/** How many requests each room holds. */
export const ROOMS = {
  /** Until their key is known. A key seen within the last second is known at once; after that, all who come wait for it. */
  door: 2_000,
  /** The same for calls that only workers make. */
  worker_door: 500,
  /** Enough to sit out a database that stands still for a second, at as many opt-outs a second as one process records. */
  clients: 3_000,
  /** A worker has up to eight requests under way, but mostly one. */
  workers: 500,
  /** Answers that a client lets be held: `Prefer: wait`, events. Each looks ten times a second how far things are. */
  waits: 1_000,
  /** The long polls of workers, one each; each asks the ledger ten times a second. */
  worker_waits: 200,
  /** /readyz and /metrics, which ask the ledger. */
  ops: 50,
} as const;
export type Room = keyof typeof ROOMS;

/** This much of a body belongs to its request and is not counted: an opt-out never lacks room because of large bodies. */
const SMALL_BYTES = 4 * 1024;
/** For clients and for workers each: 32 of the largest calls of checks, 16 of the largest reports, or hundreds of usual ones. */
const BODY_BYTES_HELD_MAX = 32 * 1024 * 1024;
const RETRY_AFTER_SECONDS = 1;

/** Made once: a refusal must cost next to nothing, and the trace of where it happened costs most of it. */
const fullOf = (detail: string): AbideError =>
  new AbideError('overloaded', detail, { retryAfterSeconds: RETRY_AFTER_SECONDS });
const FULL: Readonly<Record<Room | 'bodies', AbideError>> = {
  door: fullOf('Too many requests are under way here.'),
  worker_door: fullOf('Too many requests of workers are under way here.'),
  clients: fullOf('Too many requests are under way here.'),
  workers: fullOf('Too many requests of workers are under way here.'),
  waits: fullOf('Too many answers are held here: ask without `Prefer: wait`.'),
  worker_waits: fullOf('Too many workers are waiting here.'),
  ops: fullOf('Too many requests for health at once.'),
  bodies: fullOf('Too many large bodies are being read here.'),
};

/** Where a request is, until its answer is sent and nothing works on it any more. */
export type Place = {
  /** Leaves the room that it is in for another one. Throws overloaded. */
  moveTo(room: Room): void;
  /** As moveTo, for callers that can do without: false if that room is full, and then it stays where it is. */
  tryMoveTo(room: Room): boolean;
  /** Counts what came of a body, `bytes` in all, if it fits; otherwise gives what to answer. */
  holdBody(bytes: number): AbideError | undefined;
  leave(): void;
};

export type Rooms = {
  /** Throws overloaded. */
  enter(room: Room): Place;
  /** Whether a room that sends bodies, or the space for bodies, is more than half full: then nobody may take long to send. */
  isCrowded(): boolean;
  /** Current requests by room. */
  held(): Readonly<Record<Room, number>>;
};

/** `onRefused` is told which room was full, or `bodies`. `rooms` and `bodyBytes` are for tests. */
export function createRooms({
  onRefused,
  rooms = ROOMS,
  bodyBytes = BODY_BYTES_HELD_MAX,
}: {
  onRefused: (of: Room | 'bodies') => void;
  rooms?: Readonly<Record<Room, number>> | undefined;
  bodyBytes?: number | undefined;
}): Rooms {
  const held: Record<Room, number> = {
    door: 0,
    worker_door: 0,
    clients: 0,
    workers: 0,
    waits: 0,
    worker_waits: 0,
    ops: 0,
  };
  const bytesHeld = { clients: 0, workers: 0 };

  class Held implements Place {
    #room: Room | undefined;
    #bytes = 0;
    #payer: keyof typeof bytesHeld = 'clients';

    constructor(room: Room) {
      this.#room = room;
      held[room] += 1;
    }

    tryMoveTo(to: Room): boolean {
      if (this.#room === undefined) return true;
      if (held[to] >= rooms[to]) {
        onRefused(to);
        return false;
      }
      held[this.#room] -= 1;
      held[to] += 1;
      this.#room = to;
      // A request that waits has read its body, and needs it no more.
      this.#dropBody();
      return true;
    }

    moveTo(to: Room): void {
      if (!this.tryMoveTo(to)) throw FULL[to];
    }

    holdBody(length: number): AbideError | undefined {
      const more = length - SMALL_BYTES - this.#bytes;
      if (more <= 0 || this.#room === undefined) return undefined;
      this.#payer = this.#room === 'workers' ? 'workers' : 'clients';
      if (bytesHeld[this.#payer] + more > bodyBytes) {
        onRefused('bodies');
        return FULL.bodies;
      }
      bytesHeld[this.#payer] += more;
      this.#bytes += more;
      return undefined;
    }

    leave(): void {
      if (this.#room === undefined) return;
      held[this.#room] -= 1;
      this.#room = undefined;
      this.#dropBody();
    }

    #dropBody(): void {
      bytesHeld[this.#payer] -= this.#bytes;
      this.#bytes = 0;
    }
  }

  return {
    enter: (room) => {
      if (held[room] < rooms[room]) return new Held(room);
      onRefused(room);
      throw FULL[room];
    },
    isCrowded: () =>
      (['door', 'clients', 'workers'] as const).some((room) => held[room] > rooms[room] / 2) ||
      Object.values(bytesHeld).some((bytes) => bytes > bodyBytes / 2),
    held: () => held,
  };
}

export const placeOf = (ctx: Context): Place => (ctx.state as { place: Place }).place;
