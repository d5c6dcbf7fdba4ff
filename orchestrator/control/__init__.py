"""What happens to a job: controller, node groups, ranks, fleet. The only room of the engine that imports ray."""
