<?php

declare(strict_types=1);

namespace OmegaUp;

/**
 * How many requests there were, how they ended and how long they took, for Prometheus: counted in this host's APCu.
 *
 * The names are the real judge's. Without APCu nothing is counted, and nothing fails.
 */
final class Metrics
{
    private const PREFIX = 'metrics|';
    /** Seconds. */
    private const BUCKETS = ['0.025', '0.05', '0.1', '0.25', '0.5', '1', '2.5', '5', '10'];

    /** @param string $api the route, never a path as sent: a path can be spelt in endless ways */
    public static function observe(string $api, int $status, float $seconds): void
    {
        if (!function_exists('apcu_enabled') || !apcu_enabled()) {
            return;
        }
        self::add("total|$api");
        self::add("status|$api|$status");
        foreach (self::BUCKETS as $bound) {
            if ($seconds <= (float)$bound) {
                self::add("bucket|$api|$bound");
                break;
            }
        }
        // Whole microseconds: APCu adds integers in one step.
        self::add("sum|$api", max(0, (int)round($seconds * 1_000_000)));
    }

    public static function text(): string
    {
        $counts = [];
        if (function_exists('apcu_enabled') && apcu_enabled()) {
            foreach (new \APCUIterator('/\A' . preg_quote(self::PREFIX, '/') . '/', APC_ITER_KEY | APC_ITER_VALUE) as $entry) {
                [, $kind, $api, $rest] = explode('|', $entry['key'], 4) + [3 => ''];
                $counts[$kind][$api][$rest] = (int)$entry['value'];
            }
        }
        ksort($counts);
        $lines = [
            '# HELP frontend_api_request_total Requests answered.',
            '# TYPE frontend_api_request_total counter',
        ];
        foreach ($counts['total'] ?? [] as $api => $values) {
            $lines[] = "frontend_api_request_total{api=\"$api\"} {$values['']}";
        }
        $lines[] = '# HELP frontend_api_request_status_count Requests answered, by status.';
        $lines[] = '# TYPE frontend_api_request_status_count counter';
        foreach ($counts['status'] ?? [] as $api => $values) {
            foreach ($values as $status => $count) {
                $lines[] = "frontend_api_request_status_count{api=\"$api\",status=\"$status\"} $count";
            }
        }
        $lines[] = '# HELP frontend_api_request_seconds Time to answer.';
        $lines[] = '# TYPE frontend_api_request_seconds histogram';
        foreach ($counts['total'] ?? [] as $api => $values) {
            $sum = 0;
            foreach (self::BUCKETS as $bound) {
                $sum += $counts['bucket'][$api][$bound] ?? 0;
                $lines[] = "frontend_api_request_seconds_bucket{api=\"$api\",le=\"$bound\"} $sum";
            }
            $lines[] = "frontend_api_request_seconds_bucket{api=\"$api\",le=\"+Inf\"} " . max($sum, $values['']);
            $lines[] = sprintf('frontend_api_request_seconds_sum{api="%s"} %.6F', $api, ($counts['sum'][$api][''] ?? 0) / 1e6);
            $lines[] = "frontend_api_request_seconds_count{api=\"$api\"} " . max($sum, $values['']);
        }
        return implode("\n", $lines) . "\n";
    }

    private static function add(string $key, int $step = 1): void
    {
        apcu_inc(self::PREFIX . $key, $step);
    }
}
