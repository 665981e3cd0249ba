import { input } from '../core/exec.ts'
import { Fail, messageOf } from '../core/fail.ts'
import { log } from '../core/log.ts'
import { readSecret } from '../core/secret.ts'
import type { Host } from '../host/schema.ts'
import type { NotifySpec } from '../host/schedule-schema.ts'
import { become } from './become.ts'
import { send } from './http.ts'
import { defaultUser } from './job.ts'
import { documentOf, environmentOf, mailOf, type Story } from './message.ts'

/**
 * Tells some of those whom the host file names, all at once.
 * @param to names of `[notify.NAME]`
 * @returns names of those who could not be told
 */
export async function deliver(host: Host, to: readonly string[], story: Story): Promise<string[]> {
  const results = await Promise.all(
    to.map(async (name) => {
      try {
        await tell(host, name, story)
        return []
      } catch (error) {
        log('error', `schedule: ${story.job} ${story.state}: cannot tell "${name}": ${messageOf(error)}`)
        return [name]
      }
    }),
  )
  return results.flat()
}

async function tell(host: Host, name: string, story: Story): Promise<void> {
  const spec = host.notify[name]
  if (spec === undefined) throw new Fail('host-file', `there is no [notify.${name}] in the host file`)
  if (spec.command !== undefined) {
    const mail = Buffer.from(mailOf(story, spec.to))
    // Fed, for one that ends without reading it all must say so by its exit code.
    await input([...rightsOf(host, spec), ...spec.command], once(mail), {
      env: environmentOf(story),
      signal: AbortSignal.timeout(PROGRAM_MILLISECONDS),
    })
    return
  }
  const authorization = spec.authorization && (await readSecret(spec.authorization)).reveal()
  await send(`the webhook of [notify.${name}]`, spec.webhook!, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(authorization !== undefined && { authorization }),
    },
    body: documentOf(story),
  })
}

/** Root, which the alert is for the sake of one who is privileged, runs the others with the rights that they have without that one. */
function rightsOf(host: Host, { privileged }: NotifySpec): string[] {
  const user = defaultUser(host)
  return privileged || user === undefined ? [] : become(user, ['--no-new-privs'])
}

const PROGRAM_MILLISECONDS = 60_000

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array, void> {
  yield bytes
}
