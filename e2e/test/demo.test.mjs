// The example shop in a browser: orders come by themselves, and a row changed with psql changes on the page.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { withPage } from '../lib/browser.mjs';
import { Platform } from '../lib/platform.mjs';

const PSQL = process.env.REALTIME_PG_BIN ? join(process.env.REALTIME_PG_BIN, 'psql') : 'psql';
const SOON_MS = 20_000;
/** What a change may take from commit to page on a busy machine; the clock is the same for both. */
const PLAUSIBLE_MS = 10_000;

describe('the page of the example shop', () => {
  let platform;

  before(async () => {
    platform = await Platform.start('--demo');
  });

  after(async () => platform?.stop());

  /** Runs one statement the way a person would; answers what it prints, without decoration. */
  async function psql(sql) {
    const args = [platform.place.targetUrl, '--no-psqlrc', '-v', 'ON_ERROR_STOP=1', '-qAt', '-c', sql];
    const { stdout } = await promisify(execFile)(PSQL, args, { timeout: SOON_MS });
    return stdout.trim();
  }

  /** Opens the page and waits until every topic is live on it. */
  async function open(page) {
    await page.goto(`${platform.url}/demo/`);
    await page.locator('#connection[data-state="connected"]').waitFor({ timeout: SOON_MS });
    await page.locator('#orders[aria-busy="false"]').waitFor({ state: 'attached', timeout: SOON_MS });
  }

  const number = async (page, selector) => Number.parseInt(await page.locator(selector).textContent(), 10);

  /** Waits until the page has counted more than `count` live events; answers how many. */
  async function moreThan(page, count) {
    const passed = (few) => Number(document.getElementById('count').textContent) > few;
    await page.waitForFunction(passed, count, { timeout: SOON_MS });
    return number(page, '#count');
  }

  function checkLatency(text) {
    assert.match(text, /^\d+ ms$/);
    const latency = Number.parseInt(text, 10);
    assert.ok(latency >= 0 && latency <= PLAUSIBLE_MS, `${text} from commit to screen`);
  }

  it('shows orders as they come, with their latency', () =>
    withPage(async (page) => {
      await open(page);
      await moreThan(page, await moreThan(page, 0));
      assert.ok(await page.locator('#orders tr').count() > 0);
      checkLatency(await page.locator('#last').textContent());
      checkLatency(await page.locator('#median').textContent());
      assert.ok(await page.locator('#notice').isHidden(), await page.locator('#notice').textContent());
      assert.ok(await page.locator('#empty').isHidden());
    }));

  it('shows an order placed, and then changed, with psql', () =>
    withPage(async (page) => {
      await open(page);
      const id = await psql(`
        insert into orders (customer_id, customer_name, total)
        select id, name, 12.5 from customers order by id limit 1 returning id`);
      const row = page.locator(`#orders tr[data-order="${id}"]`);
      await row.locator('td', { hasText: /^12\.50$/ }).waitFor({ timeout: SOON_MS });

      // Cancelled: the warehouse leaves it alone, whatever it did before.
      await psql(`update orders set status = 'cancelled', total = 4711.25 where id = ${id}`);
      await row.locator('td', { hasText: /^4711\.25$/ }).waitFor({ timeout: SOON_MS });
      assert.equal(await row.locator('td.status').textContent(), 'cancelled');
      checkLatency(await row.locator('td').last().textContent());
    }));

  it('shows after a reload what history keeps', () =>
    withPage(async (page) => {
      await open(page);
      await moreThan(page, 0);
      const id = await page.locator('#orders tr').first().getAttribute('data-order');
      await page.reload();
      await page.locator(`#orders tr[data-order="${id}"]`).waitFor({ timeout: SOON_MS });
    }));
});
