-- After query 1 of TPC-H: what was shipped, by its state.
SELECT returned, status, SUM(quantity) AS quantity, SUM(price) AS price, SUM(price * (1 - discount)) AS revenue,
    AVG(quantity) AS mean_quantity, AVG(discount) AS mean_discount, COUNT(*) AS number
FROM shop.lines
WHERE shipped <= '1998-09-02'
GROUP BY returned, status;

-- After query 3: what customers of each segment brought in a year. Two providers, joined on the customer.
SELECT c.segment, SUM(l.price * (1 - l.discount)) AS revenue, COUNT(DISTINCT c.customer) AS customers
FROM bank.customers AS c JOIN shop.lines AS l ON l.customer = c.customer
WHERE l.shipped BETWEEN '1994-01-01' AND '1994-12-31'
GROUP BY c.segment;

-- Query 6: what giving no discounts would have brought.
SELECT SUM(price * discount) AS increase
FROM shop.lines
WHERE shipped >= '1994-01-01' AND shipped < '1995-01-01' AND discount BETWEEN 0.05 AND 0.07 AND quantity < 24;

-- After query 12: orders by priority, and those of them that are closed.
SELECT priority, COUNT(*) AS orders, COUNT(*) FILTER (WHERE status = 'F') AS closed
FROM shop.orders
GROUP BY priority;

-- After query 13: how many orders a customer with orders has.
SELECT AVG(o.orders) AS mean_orders, STDDEV_POP(o.orders) AS deviation, COUNT(*) AS customers
FROM (SELECT customer, COUNT(*) AS orders FROM shop.orders GROUP BY customer) AS o;

-- After query 22: balances above zero, by nation.
SELECT nation, COUNT(*) AS customers, SUM(balance) AS balance
FROM bank.customers
WHERE balance > 0
GROUP BY nation;

-- Orders and their value by year.
SELECT YEAR(ordered) AS year, COUNT(*) AS orders, SUM(total) AS total
FROM shop.orders
GROUP BY YEAR(ordered);
